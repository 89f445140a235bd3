// What a program does with amqplib: `node with_amqplib.mjs URL` prints one line for each thing that went as it should.
// amqplib has no transactions.
import assert from "node:assert/strict";
import { once } from "node:events";
import { setTimeout } from "node:timers/promises";
import amqplib from "amqplib";

const COUNT = 100;

const connection = await amqplib.connect(process.argv[2]);
const channel = await connection.createConfirmChannel();

const { queue } = await channel.assertQueue("", { exclusive: true });
await channel.assertExchange(`orders-of-${queue}`, "topic", { autoDelete: true, durable: false });
await channel.bindQueue(queue, `orders-of-${queue}`, "orders.#");
const declared = await channel.checkQueue(queue);
console.log(`declared: ${declared.messageCount} messages, ${declared.consumerCount} consumers`);

for (let number = 0; number < COUNT; number++) {
  const options = { persistent: true, mandatory: true, messageId: `${number}`, headers: { n: number } };
  channel.publish(`orders-of-${queue}`, "orders.new", Buffer.from(`${number}`), options);
}
await channel.waitForConfirms();
console.log(`confirmed: ${COUNT}`);

await channel.prefetch(10);
const seen = new Set();
let redelivered = 0;
await new Promise((resolve) => {
  channel.consume(queue, (message) => {
    const body = message.content.toString();
    if (body === "5" && !message.fields.redelivered) {
      channel.nack(message, false, true);
      return;
    }
    redelivered += message.fields.redelivered ? 1 : 0;
    assert.equal(message.properties.messageId, body);
    assert.equal(`${message.properties.headers.n}`, body);
    seen.add(body);
    channel.ack(message);
    if (seen.size === COUNT) resolve();
  }, { consumerTag: "mine" });
});
await channel.cancel("mine");
console.log(`consumed: ${seen.size}, ${redelivered} redelivered`);

channel.sendToQueue(queue, Buffer.alloc(300_000, "x"));
await channel.waitForConfirms();
const got = await channel.get(queue);
channel.ack(got);
const then = (await channel.get(queue)) === false ? "nothing" : "more";
console.log(`got: ${got.content.length} bytes, then ${then}`);

const returns = once(channel, "return");
channel.sendToQueue("nobody-has-this-queue", Buffer.from("back"), { mandatory: true });
await channel.waitForConfirms();
const [back] = await returns;
console.log(`returned: ${back.fields.replyCode} ${back.fields.replyText}`);

let late = 0;
const { consumerTag } = await channel.consume(queue, () => { late++; }, { noAck: true });
await channel.cancel(consumerTag);
channel.sendToQueue(queue, Buffer.from("after"));
await channel.waitForConfirms();
const { messageCount } = await channel.purgeQueue(queue);
console.log(`cancelled: ${late} delivered, ${messageCount} ready`);

const source = (await channel.assertQueue("", {
  exclusive: true, deadLetterExchange: "", deadLetterRoutingKey: queue, messageTtl: 60_000,
})).queue;
channel.sendToQueue(source, Buffer.from("bad"));
await channel.waitForConfirms();
channel.reject(await channel.get(source), false);
let letter;
while (!(letter = await channel.get(queue, { noAck: true }))) await setTimeout(10);
const death = letter.properties.headers["x-death"][0];
console.log(`dead letter: ${death.reason} ${death.count} times from ${death.queue === source ? "source" : "?"}`);

const other = await connection.createChannel();
other.on("error", () => {}); // the refusal below is told by the rejected promise too
const refusal = await other.checkQueue("nobody-has-this-queue").catch((error) => error);
await (await connection.createChannel()).close();
console.log(`refused: ${refusal.code} ${refusal.message.match(/NOT_FOUND - .*?'\/'/)[0]}`);

await connection.close();
console.log("closed");
