// SPDX-License-Identifier: Apache-2.0
// What BullMQ runs in its child processes.
'use strict';
const { handled } = require('./measuring.js');

module.exports = async (job) => handled(job.data);
