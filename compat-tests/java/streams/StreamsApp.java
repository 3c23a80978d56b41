import java.time.Duration;
import java.util.Properties;

import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Joined;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Named;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.processor.StandbyUpdateListener;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.processor.TaskId;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.WindowStore;

/**
 * A shop, for the test that kills it: orders (customer -> number) are joined with customers (customer -> region), summed up by
 * customer and, through a repartition topic, by region and window; the sums are joined with the customers once more.
 *
 * <pre>StreamsApp BROKER PREFIX GUARANTEE STATE_DIR</pre>
 *
 * PREFIX is the application id and the start of all topics' names. It prints what happens to it as lines of JSON, see
 * harness/member.go. No record is cached, so that each order makes exactly one record in each output.
 */
public class StreamsApp {
    static final Duration WINDOW = Duration.ofSeconds(10);

    static synchronized void say(String name, String state, long count) {
        System.out.println("{\"name\":\"" + name + "\",\"timestamp\":" + System.currentTimeMillis() + ",\"state\":\"" + state + "\",\"count\":" + count + "}");
        System.out.flush();
    }

    /** "count:sum" with one more number in it. */
    static String add(String total, long number) {
        int colon = total.indexOf(':');
        return (Long.parseLong(total.substring(0, colon)) + 1) + ":" + (Long.parseLong(total.substring(colon + 1)) + number);
    }

    static String causes(Throwable e) {
        StringBuilder names = new StringBuilder(e.getClass().getSimpleName());
        while ((e = e.getCause()) != null) names.append(" by ").append(e.getClass().getSimpleName());
        return names.toString();
    }

    static Topology shop(String prefix) {
        Serde<String> s = Serdes.String();
        StreamsBuilder b = new StreamsBuilder();
        KTable<String, String> customers = b.table(prefix + "-customers", Consumed.with(s, s), Materialized.<String, String, KeyValueStore<Bytes, byte[]>>as("customers").withKeySerde(s).withValueSerde(s).withCachingDisabled());
        KStream<String, String> orders = b.stream(prefix + "-orders", Consumed.with(s, s));

        KStream<String, String> each = orders.join(customers, (number, region) -> number + "@" + region, Joined.with(s, s, s));
        each.to(prefix + "-each", Produced.with(s, s));

        KTable<String, String> totals = orders.groupByKey(Grouped.with(s, s))
            .aggregate(() -> "0:0", (customer, number, total) -> add(total, Long.parseLong(number)), Named.as("sum"),
                Materialized.<String, String, KeyValueStore<Bytes, byte[]>>as("totals").withKeySerde(s).withValueSerde(s).withCachingDisabled());
        totals.toStream().to(prefix + "-totals", Produced.with(s, s));

        totals.join(customers, (total, region) -> region + "=" + total, Materialized.<String, String, KeyValueStore<Bytes, byte[]>>as("joined").withKeySerde(s).withValueSerde(s).withCachingDisabled())
            .toStream().to(prefix + "-joined", Produced.with(s, s));

        each.map((customer, v) -> KeyValue.pair(v.substring(v.indexOf('@') + 1), v.substring(0, v.indexOf('@'))))
            .groupByKey(Grouped.with("by-region", s, s))
            .windowedBy(TimeWindows.ofSizeAndGrace(WINDOW, Duration.ofDays(1)))
            .aggregate(() -> "0:0", (region, number, total) -> add(total, Long.parseLong(number)), Named.as("sum-windows"),
                Materialized.<String, String, WindowStore<Bytes, byte[]>>as("windows").withKeySerde(s).withValueSerde(s).withCachingDisabled())
            .toStream().map((w, total) -> KeyValue.pair(w.key() + "@" + w.window().start(), total))
            .to(prefix + "-windows", Produced.with(s, s));
        return b.build();
    }

    public static void main(String[] args) {
        Properties p = new Properties();
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, args[1]);
        p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, args[2]);
        p.put(StreamsConfig.STATE_DIR_CONFIG, args[3]);
        p.put("group.protocol", "classic");
        p.put(StreamsConfig.NUM_STANDBY_REPLICAS_CONFIG, 1);
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100);
        p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), 6000);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG), 1000);
        p.put("reconnect.backoff.max.ms", 500);
        // A broker that comes back on a busy machine may take longer than the default minute, and a thread that runs into it ends.
        p.put(StreamsConfig.producerPrefix("max.block.ms"), 300_000);

        KafkaStreams app = new KafkaStreams(shop(args[1]), p);
        app.setStateListener((now, before) -> say("state", now.name(), 0));
        app.setUncaughtExceptionHandler(e -> {
            e.printStackTrace();
            say("failed", causes(e), 0);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        app.setGlobalStateRestoreListener(new StateRestoreListener() {
            public void onRestoreStart(TopicPartition tp, String store, long from, long to) { }
            public void onBatchRestored(TopicPartition tp, String store, long end, long count) { }
            public void onRestoreEnd(TopicPartition tp, String store, long count) { say("restored", store, count); }
        });
        app.setStandbyUpdateListener(new StandbyUpdateListener() {
            public void onUpdateStart(TopicPartition tp, String store, long from) { }
            public void onBatchLoaded(TopicPartition tp, String store, TaskId task, long end, long count, long logEnd) { say("standby", store, count); }
            public void onUpdateSuspended(TopicPartition tp, String store, long at, long end, SuspendReason why) {
                if (why == SuspendReason.PROMOTED) say("promoted", store, at);
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            app.close(Duration.ofSeconds(30));
            say("shutdown_complete", "", 0);
        }));
        app.start();
    }
}
