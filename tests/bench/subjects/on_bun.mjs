// bun: uWebSockets in C++, by `publish` to a topic; its clients by the WebSocket of browsers.
import { clock, job, LOOK, now, ready, SETTLE, sleep, textOf, tls, turn } from "./stage.mjs";

const FULL = 1 << 20, TOPIC = "events";
const peers = new Set();

function listen(works = {}) {
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    tls: tls || undefined,
    fetch: (request, server) => (server.upgrade(request) ? undefined : new Response("", { status: 426 })),
    websocket: {
      perMessageDeflate: false,
      // Nothing may be dropped: every peer must have everything.
      backpressureLimit: 1 << 30,
      idleTimeout: job.heartbeat || 960,
      sendPings: job.heartbeat > 0,
      open(socket) { peers.add(socket); socket.subscribe(TOPIC); },
      message(socket, text) { works.message?.(socket, text); },
      close(socket) { peers.delete(socket); works.close?.(); },
    },
  });
  ready(server.port);
  return server;
}

async function fanout() {
  const server = listen();
  while (peers.size < job.peers) await sleep(LOOK);
  await sleep(SETTLE);
  clock.start();
  const text = textOf(), [first] = peers;
  for (let number = 0; number < job.events; number++) {
    server.publish(TOPIC, job.pace ? textOf(now()) : text);
    if (job.pace) await sleep(job.pace * 1000);
    else if (number % 64 === 0) do await turn(); while (first.getBufferedAmount() > FULL);
  }
  while (peers.size === job.peers) await sleep(LOOK);
  clock.tell();
}

function idle() { listen(); }

function receive() {
  let count = 0;
  listen({ message() { clock.start(); if (++count === job.events) clock.tell(); } });
}

function relay() {
  listen({
    message(socket, text) { clock.start(); socket.publish(TOPIC, text); },
    close: () => clock.tell(),
  });
}

function push() {
  const client = new WebSocket(`${tls ? "wss" : "ws"}://localhost:${job.port}/`, {
    tls: tls ? { ca: tls.cert } : undefined,
  });
  client.onopen = async () => {
    clock.start();
    const text = textOf();
    for (let number = 0; number < job.events; number++) {
      client.send(text);
      if (number % 16 === 0) do await turn(); while (client.bufferedAmount > FULL);
    }
    client.close();
  };
  client.onclose = () => clock.tell();
}

({ fanout, idle, receive, relay, push })[job.work]();
