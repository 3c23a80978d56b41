// The transactional commands of the compatibility tests' language, see
// harness/client.go, with KafkaJS or Confluent's client.
//
//   node txn.js kafkajs|confluent BROKER
const readline = require('readline')
const { connect, code } = require('./lib.js')
const [library, broker] = process.argv.slice(2)
const producers = {}
const commands = {
  open: async (name, id, timeout) => { producers[name] = { w: await connect(library, broker).producer(id, +timeout) } },
  begin: async p => { p.txn = await p.w.transaction() },
  send: async (p, topic, partition, value) => {
    const [r] = await p.txn.send({ topic, messages: [{ partition: +partition, value: Buffer.from(value, 'base64') }] })
    return r.baseOffset
  },
  sendoffsets: async (p, group, topic, partition, offset) => {
    const offsets = [{ topic, partitions: [{ partition: +partition, offset }] }]
    await connect(library, broker).sendOffsets(p.txn, group, offsets)
  },
  commit: p => p.txn.commit(),
  abort: p => p.txn.abort(),
  close: p => p.w.disconnect(),
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [word, name, ...args] = line.split('\t')
    try {
      const answer = await commands[word](word === 'open' ? name : producers[name], ...args)
      if (typeof answer === 'string') console.log(answer)
      console.log('.')
    } catch (e) {
      if (code(e) === -1) console.error(e)
      console.log(`!\t${code(e)}\t${String(e.message).replace(/\s+/g, ' ')}`)
    }
  }
  process.exit(0)
}
main()
