// A member of a consumer group that uses KafkaJS. It prints the events that
// Kafka's VerifiableConsumer prints: see harness/member.go.
//
//   node kafkajs_member.js kafkajs BROKER TOPIC GROUP
const { Kafka, logLevel } = require('kafkajs')
const [broker, topic, group] = process.argv.slice(3)
const say = (name, partitions) => console.log(JSON.stringify({ name, timestamp: Date.now(), partitions }))
let owned = []
const revoke = () => {
  if (owned.length) say('partitions_revoked', owned)
  owned = []
}

async function main() {
  const kafka = new Kafka({ brokers: [broker], logLevel: logLevel.NOTHING, retry: { initialRetryTime: 100, retries: 50 } })
  const consumer = kafka.consumer({ groupId: group, sessionTimeout: 10000, rebalanceTimeout: 10000, heartbeatInterval: 500, maxWaitTimeInMs: 100, metadataMaxAge: 5000 })
  // KafkaJS tells of a rebalance when the group was joined again; it has stopped
  // reading before.
  for (const e of [consumer.events.REBALANCING, consumer.events.CRASH, consumer.events.DISCONNECT]) consumer.on(e, revoke)
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    revoke()
    owned = (payload.memberAssignment[topic] || []).map(partition => ({ topic, partition }))
    say('partitions_assigned', owned)
  })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({
    eachBatchAutoResolve: true,
    autoCommit: true,
    autoCommitThreshold: 1,
    eachBatch: async ({ batch }) => {
      if (!batch.messages.length) return
      say('records_consumed', [{ topic, partition: batch.partition, minOffset: +batch.firstOffset(), maxOffset: +batch.lastOffset() }])
    },
  })
  process.on('SIGTERM', async () => {
    revoke()
    await consumer.disconnect()
    say('shutdown_complete', [])
    process.exit(0)
  })
}
main().catch(e => { console.error(e); process.exit(1) })
