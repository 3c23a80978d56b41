import java.lang.reflect.InvocationTargetException;
import java.util.Collections;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.TimeUnit;

import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Transactions, for every line of the client. */
public class Txn {
    static final Map<String, Producer<byte[], byte[]>> producers = new HashMap<>();

    public static void run(Compat c, String[] a) throws Exception {
        Producer<byte[], byte[]> w = producers.get(a[1]);
        switch (a[0]) {
            case "open": open(c, a[1], a[2], a[3]); return;
            case "begin": w.beginTransaction(); return;
            case "send":
                c.out.println(w.send(new ProducerRecord<>(a[2], Integer.valueOf(a[3]), (byte[]) null, Compat.bytes(a[4]))).get(Compat.LIMIT_MS, TimeUnit.MILLISECONDS).offset());
                return;
            case "sendoffsets": sendOffsets(w, a[2], Collections.singletonMap(new TopicPartition(a[3], Integer.parseInt(a[4])), new OffsetAndMetadata(Long.parseLong(a[5])))); return;
            case "commit": w.commitTransaction(); return;
            case "abort": w.abortTransaction(); return;
            case "close": producers.remove(a[1]).close(); return;
            default: throw new IllegalArgumentException(a[0]);
        }
    }

    static void open(Compat c, String name, String id, String timeout) {
        Properties p = c.base();
        p.put("transactional.id", id);
        p.put("transaction.timeout.ms", timeout);
        p.put("max.block.ms", "30000");
        Producer<byte[], byte[]> w = new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer());
        w.initTransactions();
        producers.put(name, w);
    }

    /** The group's name was enough before 2.5; 4.0 wants its metadata. */
    static void sendOffsets(Producer<byte[], byte[]> w, String group, Map<TopicPartition, OffsetAndMetadata> offsets) throws Exception {
        Class<?> kind = String.class;
        Object metadata = group;
        try {
            kind = Class.forName("org.apache.kafka.clients.consumer.ConsumerGroupMetadata");
            metadata = kind.getConstructor(String.class).newInstance(group);
        } catch (ClassNotFoundException e) {
            // An older client.
        }
        try {
            Producer.class.getMethod("sendOffsetsToTransaction", Map.class, kind).invoke(w, offsets, metadata);
        } catch (InvocationTargetException e) {
            throw (Exception) e.getCause();
        }
    }
}
