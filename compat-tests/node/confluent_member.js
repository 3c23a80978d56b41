// A member of a consumer group that uses Confluent's JavaScript client
// (librdkafka behind the API of KafkaJS). It prints the events that Kafka's
// VerifiableConsumer prints: see harness/member.go.
//
//   node confluent_member.js confluent BROKER TOPIC GROUP KEY=VALUE...
const { Kafka, logLevel } = require('@confluentinc/kafka-javascript').KafkaJS
const [broker, topic, group, ...conf] = process.argv.slice(3)
const say = (name, partitions) => process.stdout.write(JSON.stringify({ name, timestamp: Date.now(), partitions }) + '\n')
const assignPartitions = -175

async function main() {
  const kafka = new Kafka({ kafkaJS: { brokers: [broker], logLevel: logLevel.NOTHING } })
  const consumer = kafka.consumer({
    kafkaJS: { groupId: group, fromBeginning: true, autoCommit: false, maxWaitTimeInMs: 100 },
    'topic.metadata.refresh.interval.ms': 1000,
    'reconnect.backoff.max.ms': 500,
    rebalance_cb: (err, assignment) => {
      say(err.code === assignPartitions ? 'partitions_assigned' : 'partitions_revoked', assignment.map(({ topic, partition }) => ({ topic, partition })))
    },
    ...Object.fromEntries(conf.map(c => [c.slice(0, c.indexOf('=')), c.slice(c.indexOf('=') + 1)])),
  })
  await consumer.connect()
  await consumer.subscribe({ topic })
  await consumer.run({
    eachBatch: async ({ batch }) => {
      if (!batch.messages.length) return
      const first = +batch.messages[0].offset
      const last = +batch.messages[batch.messages.length - 1].offset
      say('records_consumed', [{ topic, partition: batch.partition, minOffset: first, maxOffset: last }])
      try {
        await consumer.commitOffsets([{ topic, partition: batch.partition, offset: String(last + 1) }])
      } catch (e) {
        console.error(e.message)
      }
    },
  })
  process.on('SIGTERM', async () => {
    await consumer.disconnect()
    say('shutdown_complete', [])
    process.exit(0)
  })
}
main().catch(e => { console.error(e); process.exit(1) })
