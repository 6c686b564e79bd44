// The MQTT.js half of tests/interop/run.sh: 200 publishes at once, more than the Receive Maximum, at QoS 1 and 2, half of
// them retained.
//
//   node burst.cjs PORT
//
// Prints DEVICE, KIND and BODY of each reading, separated by tabs; fails if one publish does, or the connection ends.
// MQTT.js is found through NODE_PATH.
'use strict';
const mqtt = require('mqtt');

const PUBLISHES = 200;
const DEADLINE_MS = 20000;

async function burst(port, protocolVersion, qos) {
  const name = `mqttjs-${protocolVersion}-${qos}`;
  // Without reconnecting, so that a connection that ends is a failure and not a repetition.
  const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, {
    clientId: name,
    protocolVersion,
    reconnectPeriod: 0,
    will: { topic: `devices/${name}/weather`, payload: '{}', qos: 1, retain: true },
  });
  const lost = new Promise((_, reject) => {
    client.on('error', reject);
    client.on('disconnect', (packet) => reject(new Error(`${name}: DISCONNECT ${packet.reasonCode}`)));
    client.on('close', () => reject(new Error(`${name}: the connection ended`)));
  });
  const publishes = [];
  for (let number = 1; number <= PUBLISHES; number++) {
    const device = `${name}-${number}`;
    const body = JSON.stringify({ temperature_c: number / 10 });
    publishes.push(client.publishAsync(`devices/${device}/weather`, body, { qos, retain: number % 2 === 0 }));
    console.log([device, 'weather', body].join('\t'));
  }
  await Promise.race([Promise.all(publishes), lost]);
  lost.catch(() => {}); // it ends now because it is told to
  await client.endAsync();
  console.error(`ok  MQTT.js, MQTT ${protocolVersion === 4 ? '3.1.1' : '5'}, QoS ${qos}, ${PUBLISHES} at once`);
}

async function main(port) {
  for (const protocolVersion of [4, 5]) {
    for (const qos of [1, 2]) await burst(port, protocolVersion, qos);
  }
}

setTimeout(() => {
  console.error(`MQTT.js: not every publish is resolved after ${DEADLINE_MS} ms`);
  process.exit(1);
}, DEADLINE_MS).unref();
main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});
