// SPDX-License-Identifier: Apache-2.0
// What measuring.py is for Python. Node maps no files, so the count is written every 2 ms while it grows.
'use strict';
const fs = require('fs');
const path = require('path');

const SLEEP_MS = 5;
const STEPS = 40000;
const FLUSH_MS = 2;
const scenario = process.env.PEERS_SCENARIO;

let count = 0n;
let written = -1n;
let timer = null;
let file = null;

function flush() {
  if (count === written) {
    clearInterval(timer);
    timer = null;
    return;
  }
  file ??= fs.openSync(path.join(process.env.PEERS_COUNTS, `${process.pid}.count`), 'w');
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(count);
  fs.writeSync(file, bytes, 0, 8, 0);
  written = count;
}

function one() {
  count += 1n;
  timer ??= setInterval(flush, FLUSH_MS);
}

let burnt = 0;

function burn() {
  let state = 1;
  for (let step = 0; step < STEPS; step += 1) state = (state * 16807) % 2147483647;
  burnt ^= state; // used, so that it is not optimised away
}

async function handled() {
  if (scenario === 'io') await new Promise((resolve) => setTimeout(resolve, SLEEP_MS));
  else if (scenario === 'cpu') burn();
  one();
}

module.exports = { handled, burnt: () => burnt };
