// Moves records from one topic to the same partitions of another in
// transactions, as a member of a group; one in seven is aborted. An error ends
// the process, as a crash would.
//
//   node pipe.js kafkajs|confluent BROKER INPUT OUTPUT GROUP TRANSACTIONAL_ID
const { connect } = require('./lib.js')
const [library, broker, input, output, group, id] = process.argv.slice(2)
const say = (name, state = '', count = 0) => console.log(JSON.stringify({ name, timestamp: Date.now(), state, count }))
const fail = e => {
  console.error(e)
  say('failed', String(e.type || e.name))
  process.exit(1)
}

async function main() {
  const client = connect(library, broker)
  const producer = await client.producer(id, 5000)
  const consumer = client.consumer(group)
  client.onCrash(consumer, fail)
  await consumer.connect()
  await client.subscribe(consumer, input)
  let n = 0
  let turn = Promise.resolve() // one transaction after the other
  const move = batch => {
    turn = turn.then(() => transact(batch))
    return turn.catch(fail)
  }
  const transact = async batch => {
    if (!batch.messages.length) return
    const end = String(BigInt(batch.lastOffset()) + 1n)
    for (let abort = ++n % 7 === 0; ; abort = false) {
      const txn = await producer.transaction()
      await txn.send({ topic: output, messages: batch.messages.map(({ key, value }) => ({ partition: batch.partition, key, value })) })
      await client.sendPositions(txn, consumer, group, [{ topic: input, partitions: [{ partition: batch.partition, offset: end }] }])
      if (abort) {
        await txn.abort()
        continue // the same records once more
      }
      await txn.commit()
      say('committed', '', batch.messages.length)
      break
    }
  }
  await client.run(consumer, move)
}
main().catch(fail)
