// What the two clients of Node do differently.

// connect returns what the tests need of a client.
exports.connect = (library, broker) => (library === 'kafkajs' ? kafkajs(broker) : confluent(broker))

function kafkajs(broker) {
  const { Kafka, logLevel } = require('kafkajs')
  const kafka = new Kafka({ brokers: [broker], logLevel: logLevel.NOTHING, retry: { initialRetryTime: 100, maxRetryTime: 1000, retries: 100 } })
  return {
    producer: async (transactionalId, transactionTimeout) => {
      const p = kafka.producer({ transactionalId, transactionTimeout, idempotent: true, maxInFlightRequests: 1, metadataMaxAge: 5000 })
      await p.connect()
      // The first transaction makes it known to the broker.
      await (await p.transaction()).abort()
      return p
    },
    consumer: groupId => kafka.consumer({ groupId, sessionTimeout: 6000, rebalanceTimeout: 10000, heartbeatInterval: 500, maxWaitTimeInMs: 100, metadataMaxAge: 5000, readUncommitted: false }),
    onCrash: (consumer, fail) => consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || fail(payload.error)),
    run: (consumer, move) => consumer.run({ autoCommit: false, eachBatch: ({ batch }) => move(batch) }),
    subscribe: (consumer, topic) => consumer.subscribe({ topic, fromBeginning: true }),
    sendOffsets: (txn, consumerGroupId, topics) => txn.sendOffsets({ consumerGroupId, topics }),
    sendPositions: (txn, consumer, group, topics) => txn.sendOffsets({ consumerGroupId: group, topics }),
  }
}

function confluent(broker) {
  const { Kafka, logLevel } = require('@confluentinc/kafka-javascript').KafkaJS
  const kafka = new Kafka({ kafkaJS: { brokers: [broker], logLevel: logLevel.NOTHING } })
  return {
    producer: async (transactionalId, transactionTimeout) => {
      const p = kafka.producer({ kafkaJS: { transactionalId, transactionTimeout, idempotent: true }, 'linger.ms': 0, 'reconnect.backoff.max.ms': 500 })
      await p.connect()
      return p
    },
    consumer: groupId => kafka.consumer({
      kafkaJS: { groupId, autoCommit: false, fromBeginning: true, readUncommitted: false },
      'session.timeout.ms': 6000, 'heartbeat.interval.ms': 500, 'reconnect.backoff.max.ms': 500,
    }),
    onCrash: () => {}, // it goes on by itself
    run: (consumer, move) => consumer.run({ eachBatch: ({ batch }) => move(batch) }),
    subscribe: (consumer, topic) => consumer.subscribe({ topic }),
    sendOffsets: async (txn, groupId, topics) => {
      const consumer = kafka.consumer({ kafkaJS: { groupId } })
      await consumer.connect()
      try {
        await txn.sendOffsets({ consumer, topics })
      } finally {
        await consumer.disconnect()
      }
    },
    sendPositions: (txn, consumer, group, topics) => txn.sendOffsets({ consumer, topics }),
  }
}

// code is the broker's error code, or librdkafka's own, in an error.
exports.code = e => {
  for (const seen = new Set(); e && !seen.has(e); e = e.cause || e.originalError) {
    seen.add(e)
    if (typeof e.code === 'number') return e.code
  }
  return -1
}
