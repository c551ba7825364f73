"""`python -m trio_wsout` is the command `trio-wsout`."""

from trio_wsout.cli import main

main()
