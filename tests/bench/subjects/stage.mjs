// What the subjects in JavaScript stand on; the same as stage.py.
import { readFileSync } from "node:fs";

export const job = JSON.parse(process.argv[2]);
export const SETTLE = 300, LOOK = 10;
export const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
export const turn = () => new Promise((done) => setImmediate(done));
export const ready = (port) => console.log(port);
export const tls = job.cert && { cert: readFileSync(job.cert), key: readFileSync(job.key) };

// Date.now() counts milliseconds; performance.now() counts on between two of them.
const tick = () => { const was = Date.now(); while (Date.now() === was); return Date.now() - performance.now(); };
const apart = job.pace ? tick() : 0;
export const now = () => BigInt(Math.round((apart + performance.now()) * 1e6)).toString().padStart(20, "0");

const PAD = "x".repeat(job.size - 37);
export const textOf = (at = "0".repeat(20)) => `{"t":"${at}","pad":"${PAD}"}`;

const ownCpu = () => { const used = process.cpuUsage(); return (used.user + used.system) / 1e6; };
// hrtime counts from another moment in bun than in Python; this is the same everywhere.
const wall = () => Date.now() / 1000;

let cpu = null, at = 0;
export const clock = {
  start() { if (cpu === null) { cpu = ownCpu(); at = wall(); } },
  tell() {
    const peak = process.resourceUsage().maxRSS;
    const figures = JSON.stringify({ cpu: ownCpu() - cpu, start: at, done: wall(), peak });
    process.stdout.write(figures + "\n", () => process.exit(0));
  },
};
