import java.time.Duration;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;

import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.UnsupportedVersionException;
import org.apache.kafka.common.errors.AuthorizationException;
import org.apache.kafka.common.errors.OutOfOrderSequenceException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Moves records from one topic to the same partitions of another in transactions, as a member of a group; one in seven is aborted.
 * An error that ends the producer ends the process.
 *
 * <pre>Pipe BROKER INPUT OUTPUT GROUP TRANSACTIONAL_ID [CONSUMER_KEY=VALUE...]</pre>
 */
public class Pipe {
    static void say(String name, String state, long count) {
        System.out.println("{\"name\":\"" + name + "\",\"timestamp\":" + System.currentTimeMillis() + ",\"state\":\"" + state + "\",\"count\":" + count + "}");
        System.out.flush();
    }

    public static void main(String[] args) {
        Properties c = new Properties();
        c.put("bootstrap.servers", args[0]);
        c.put("group.id", args[3]);
        c.put("enable.auto.commit", "false");
        c.put("auto.offset.reset", "earliest");
        c.put("isolation.level", "read_committed");
        c.put("max.poll.records", "200");
        c.put("reconnect.backoff.max.ms", "500");
        for (int i = 5; i < args.length; i++) c.put(args[i].substring(0, args[i].indexOf('=')), args[i].substring(args[i].indexOf('=') + 1));
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("transactional.id", args[4]);
        p.put("transaction.timeout.ms", "5000");
        p.put("reconnect.backoff.max.ms", "500");
        KafkaProducer<byte[], byte[]> w = new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer());
        KafkaConsumer<byte[], byte[]> r = new KafkaConsumer<>(c, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        try {
            w.initTransactions();
            r.subscribe(Collections.singleton(args[1]), new ConsumerRebalanceListener() {
                public void onPartitionsAssigned(Collection<TopicPartition> ps) { say("assigned", "", r.assignment().size()); }
                public void onPartitionsRevoked(Collection<TopicPartition> ps) { }
            });
            for (int n = 1; ; ) {
                ConsumerRecords<byte[], byte[]> records = r.poll(Duration.ofMillis(200));
                if (!records.isEmpty()) move(w, r, records, args[2], n++ % 7 == 0);
            }
        } catch (Throwable e) {
            e.printStackTrace();
            say("failed", e.getClass().getSimpleName(), 0);
            Runtime.getRuntime().halt(1); // as a crash: nothing is said to the broker
        }
    }

    static void move(KafkaProducer<byte[], byte[]> w, KafkaConsumer<byte[], byte[]> r, ConsumerRecords<byte[], byte[]> records, String output, boolean abort) {
        try {
            w.beginTransaction();
            Map<TopicPartition, OffsetAndMetadata> ends = new HashMap<>();
            for (ConsumerRecord<byte[], byte[]> x : records) {
                w.send(new ProducerRecord<>(output, x.partition(), x.key(), x.value()));
                ends.put(new TopicPartition(x.topic(), x.partition()), new OffsetAndMetadata(x.offset() + 1));
            }
            w.sendOffsetsToTransaction(ends, r.groupMetadata());
            if (!abort) {
                w.commitTransaction();
                say("committed", "", records.count());
                return;
            }
            w.abortTransaction();
        } catch (ProducerFencedException | OutOfOrderSequenceException | UnsupportedVersionException | AuthorizationException e) {
            throw e;
        } catch (KafkaException e) {
            say("aborted", e.getClass().getSimpleName(), 0);
            w.abortTransaction();
        }
        // From what is committed once more.
        for (TopicPartition tp : r.assignment()) {
            OffsetAndMetadata at = r.committed(Collections.singleton(tp)).get(tp);
            if (at == null) r.seekToBeginning(Collections.singleton(tp)); else r.seek(tp, at.offset());
        }
    }
}
