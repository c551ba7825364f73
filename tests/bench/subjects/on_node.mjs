// ws on node, as its documentation broadcasts: `send` to each client.
import { createServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { createRequire } from "node:module";
import { clock, job, LOOK, now, ready, SETTLE, sleep, textOf, tls, turn } from "./stage.mjs";

const { WebSocket, WebSocketServer } = createRequire(process.env.BENCH_PEERS + "/")("ws");
const FULL = 1 << 20;

function listen(take) {
  const http = tls ? createTlsServer(tls) : createServer();
  const server = new WebSocketServer({ server: http, perMessageDeflate: false });
  server.on("connection", (socket) => {
    socket.on("error", () => {});
    take(socket, server);
  });
  http.listen({ port: 0, host: "127.0.0.1", backlog: 1024 }, () => ready(http.address().port));
  return server;
}

async function fanout() {
  let left = false;
  const server = listen((socket) => socket.on("close", () => { left = true; }));
  while (server.clients.size < job.peers) await sleep(LOOK);
  await sleep(SETTLE);
  clock.start();
  const text = Buffer.from(textOf());
  for (let number = 0; number < job.events; number++) {
    const fresh = job.pace ? Buffer.from(textOf(now())) : text;
    let full = false;
    for (const client of server.clients) {
      client.send(fresh, { binary: false });
      full ||= client.bufferedAmount > FULL;
    }
    if (job.pace) await sleep(job.pace * 1000);
    else if (number % 16 === 0 || full) await turn();
  }
  while (!left) await sleep(LOOK);
  clock.tell();
}

function idle() {
  const server = listen((socket) => {
    socket.alive = true;
    socket.on("pong", () => { socket.alive = true; });
  });
  setInterval(() => {
    for (const client of server.clients) {
      if (!client.alive) client.terminate();
      client.alive = false;
      client.ping();
    }
  }, job.heartbeat * 1000);
}

function receive() {
  let count = 0;
  listen((socket) => socket.on("message", () => {
    clock.start();
    if (++count === job.events) clock.tell();
  }));
}

function relay() {
  listen((socket, server) => {
    socket.on("message", (data, binary) => {
      clock.start();
      for (const client of server.clients) if (client !== socket) client.send(data, { binary });
    });
    socket.on("close", () => clock.tell());
  });
}

function push() {
  const client = new WebSocket(`${tls ? "wss" : "ws"}://localhost:${job.port}/`, {
    perMessageDeflate: false, ca: tls && tls.cert,
  });
  client.on("open", async () => {
    clock.start();
    const text = textOf();
    for (let number = 0; number < job.events; number++) {
      client.send(text);
      if (number % 16 === 0) do await turn(); while (client.bufferedAmount > FULL);
    }
    client.close();
  });
  client.on("close", () => clock.tell());
}

({ fanout, idle, receive, relay, push })[job.work]();
