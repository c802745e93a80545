// SPDX-License-Identifier: Apache-2.0
// BullMQ: jobs are removed when they are done; CPU-bound ones run in child processes (a sandboxed processor).
'use strict';
const fs = require('fs');
const path = require('path');
const readline = require('readline');
const { Queue, Worker } = require('bullmq');
const { handled } = require('./measuring.js');

const { hostname: host, port } = new URL(process.env.PEERS_URL);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };
const scenario = process.env.PEERS_SCENARIO;
const AT_ONCE = 1000;
const options = { removeOnComplete: true, removeOnFail: 1000 };

function work() {
  const processor = scenario === 'cpu' ? path.join(__dirname, 'with_bullmq_child.js') : (job) => handled(job.data);
  const worker = new Worker('bench', processor, { connection, concurrency: scenario === 'cpu' ? 2 : 100 });
  worker.on('error', (error) => console.error(error));
}

async function send() {
  const queue = new Queue('bench', { connection, defaultJobOptions: options });
  const template = JSON.parse(fs.readFileSync(process.env.PEERS_PAYLOAD, 'utf8'));
  await queue.waitUntilReady();
  console.log('ready');
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [how, count] = line.split(' ');
    const payloads = Array.from({ length: Number(count) }, (_, number) => ({ ...template, number }));
    const began = process.hrtime.bigint();
    if (how === 'many') {
      for (let start = 0; start < payloads.length; start += AT_ONCE) {
        await queue.addBulk(payloads.slice(start, start + AT_ONCE).map((data) => ({ name: 'bench', data })));
      }
    } else {
      for (const payload of payloads) await queue.add('bench', payload);
    }
    console.log(Number(process.hrtime.bigint() - began) / 1e9);
  }
  await queue.close();
}

if (process.argv[2] === 'send') send();
else work();
