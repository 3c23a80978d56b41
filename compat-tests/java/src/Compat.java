import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.io.PrintWriter;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collection;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

import org.apache.kafka.clients.admin.AdminClient;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The command language of the compatibility tests, spoken by the Java client. Compiles with every line from 0.11 to 4.x:
 * what changed between them is called by reflection, what came later stands in Since11, Modern and Latest.
 */
public class Compat {
    static final long LIMIT_MS = 60_000;
    final String bootstrap;
    final PrintWriter out;
    AdminClient admin;

    Compat(String bootstrap) {
        this.bootstrap = bootstrap;
        this.out = new PrintWriter(new BufferedWriter(new OutputStreamWriter(System.out, StandardCharsets.US_ASCII), 1 << 16));
    }

    public static void main(String[] args) throws Exception {
        Compat c = new Compat(args[0]);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = in.readLine()) != null; ) {
            try {
                c.run(line.split("\t", -1));
                c.out.println(".");
            } catch (Throwable t) {
                c.refuse(t);
            }
            c.out.flush();
        }
        if (c.admin != null) c.admin.close();
    }

    void refuse(Throwable t) {
        while ((t instanceof ExecutionException || t instanceof java.lang.reflect.InvocationTargetException) && t.getCause() != null) t = t.getCause();
        int code = Errors.forException(t).code();
        // A producer that is in an error state says why in the cause.
        for (Throwable cause = t.getCause(); code == -1 && cause != null; cause = cause.getCause()) code = Errors.forException(cause).code();
        if (code == -1) t.printStackTrace();
        out.println("!\t" + code + "\t" + t.getClass().getSimpleName() + ": " + String.valueOf(t.getMessage()).replaceAll("\\s+", " ").replaceAll("[^ -~]", "?"));
    }

    void run(String[] a) throws Exception {
        switch (a[0]) {
            case "produce": produce(a[1], conf(a[2])); return;
            case "consume": consume(new TopicPartition(a[1], Integer.parseInt(a[2])), a[3], Integer.parseInt(a[4]), conf(a[5])); return;
            case "offsets": offsets(new TopicPartition(a[1], Integer.parseInt(a[2]))); return;
            case "time": time(new TopicPartition(a[1], Integer.parseInt(a[2])), Long.parseLong(a[3])); return;
            case "create": create(a[1], Integer.parseInt(a[2]), Short.parseShort(a[3]), conf(a[4])); return;
            case "delete": get(admin().deleteTopics(Collections.singleton(a[1])).all()); return;
            case "describe": describe(a[1]); return;
            case "alter": alter(a[1], conf(a[2])); return;
            case "config": config(a[1], a); return;
            case "partitions": case "deleterecords": later("Since11", a); return;
            case "cluster": cluster(); return;
            case "open": case "begin": case "send": case "sendoffsets": case "commit": case "abort": case "close": later("Txn", a); return;
            default: later("Modern", a);
        }
    }

    /** What later clients can do stands in classes that only they are compiled with. */
    void later(String name, String[] a) throws Exception {
        Class.forName(name).getMethod("run", Compat.class, String[].class).invoke(null, this, a);
    }

    static Map<String, String> conf(String s) {
        Map<String, String> m = new LinkedHashMap<>();
        if (!s.equals("-")) for (String kv : s.split(",")) m.put(kv.substring(0, kv.indexOf('=')), kv.substring(kv.indexOf('=') + 1));
        return m;
    }

    static <T> T get(KafkaFuture<T> f) throws Exception { return f.get(LIMIT_MS, TimeUnit.MILLISECONDS); }

    Properties base() {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        return p;
    }

    AdminClient admin() {
        if (admin == null) admin = AdminClient.create(base());
        return admin;
    }

    Consumer<byte[], byte[]> consumer(Map<String, String> conf) {
        Properties p = base();
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "none");
        p.putAll(conf);
        return new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    void produce(String file, Map<String, String> conf) throws Exception {
        Properties p = base();
        p.put("max.request.size", "8388608");
        p.put("max.block.ms", "20000");
        // The clients before 2.1 do not retry unless they are told to.
        p.put("retries", "20");
        p.putAll(conf);
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (Producer<byte[], byte[]> w = new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (String line : Files.readAllLines(Paths.get(file), StandardCharsets.UTF_8)) {
                String[] f = line.split("\t", -1);
                Integer partition = f[1].equals("-1") ? null : Integer.valueOf(f[1]);
                Long timestamp = f[3].equals("-1") ? null : Long.valueOf(f[3]);
                List<Header> hs = new ArrayList<>();
                if (!f[6].equals("-")) for (String h : f[6].split(",")) {
                    String[] kv = h.split(":", -1);
                    hs.add(new RecordHeader(new String(bytes(kv[0]), StandardCharsets.UTF_8), bytes(kv[1])));
                }
                sent.add(w.send(new ProducerRecord<>(f[0], partition, timestamp, bytes(f[4]), bytes(f[5]), hs)));
            }
            w.flush();
        }
        for (Future<RecordMetadata> s : sent) {
            RecordMetadata m = s.get(LIMIT_MS, TimeUnit.MILLISECONDS);
            out.println(m.partition() + "\t" + m.offset() + "\t" + m.timestamp());
        }
    }

    /** poll(Duration) is missing before 2.0, poll(long) after 3.x. */
    @SuppressWarnings("unchecked")
    static ConsumerRecords<byte[], byte[]> poll(Consumer<byte[], byte[]> c) throws Exception {
        try {
            Class<?> duration = Class.forName("java.time.Duration");
            Method m = Consumer.class.getMethod("poll", duration);
            return (ConsumerRecords<byte[], byte[]>) m.invoke(c, java.time.Duration.ofMillis(500));
        } catch (NoSuchMethodException e) {
            return (ConsumerRecords<byte[], byte[]>) Consumer.class.getMethod("poll", long.class).invoke(c, 500L);
        }
    }

    void consume(TopicPartition tp, String from, int count, Map<String, String> conf) throws Exception {
        try (Consumer<byte[], byte[]> c = consumer(conf)) {
            c.assign(Collections.singletonList(tp));
            if (from.equals("earliest")) c.seekToBeginning(Collections.singletonList(tp));
            else if (from.startsWith("@")) {
                OffsetAndTimestamp o = c.offsetsForTimes(Collections.singletonMap(tp, Long.valueOf(from.substring(1)))).get(tp);
                if (o == null) c.seekToEnd(Collections.singletonList(tp)); else c.seek(tp, o.offset());
            } else c.seek(tp, Long.parseLong(from));
            int n = 0;
            for (long end = System.currentTimeMillis() + LIMIT_MS; n < count; ) {
                if (System.currentTimeMillis() > end) throw new IllegalStateException("read " + n + " of " + count + " records of " + tp);
                for (ConsumerRecord<byte[], byte[]> r : poll(c)) if (n++ < count) print(r);
            }
        }
    }

    void print(ConsumerRecord<byte[], byte[]> r) {
        StringBuilder hs = new StringBuilder();
        for (Header h : r.headers()) hs.append(hs.length() == 0 ? "" : ",").append(text(h.key().getBytes(StandardCharsets.UTF_8))).append(':').append(text(h.value()));
        out.println(r.topic() + "\t" + r.partition() + "\t" + r.offset() + "\t" + r.timestamp() + "\t" + text(r.key()) + "\t" + text(r.value()) + "\t" + (hs.length() == 0 ? "-" : hs));
    }

    static byte[] bytes(String s) { return s.equals("~") ? null : Base64.getDecoder().decode(s); }
    static String text(byte[] b) { return b == null ? "~" : Base64.getEncoder().encodeToString(b); }

    void offsets(TopicPartition tp) {
        try (Consumer<byte[], byte[]> c = consumer(Collections.<String, String>emptyMap())) {
            Collection<TopicPartition> one = Collections.singletonList(tp);
            out.println(c.beginningOffsets(one).get(tp) + "\t" + c.endOffsets(one).get(tp));
        }
    }

    void time(TopicPartition tp, long timestamp) {
        try (Consumer<byte[], byte[]> c = consumer(Collections.<String, String>emptyMap())) {
            OffsetAndTimestamp o = c.offsetsForTimes(Collections.singletonMap(tp, timestamp)).get(tp);
            out.println(o == null ? -1 : o.offset());
        }
    }

    void create(String topic, int partitions, short replicas, Map<String, String> conf) throws Exception {
        get(admin().createTopics(Collections.singleton(new NewTopic(topic, partitions, replicas).configs(conf))).all());
    }

    @SuppressWarnings("unchecked")
    void describe(String topic) throws Exception {
        Object result = admin().describeTopics(Collections.singleton(topic));
        Method all;
        try { all = result.getClass().getMethod("allTopicNames"); } catch (NoSuchMethodException e) { all = result.getClass().getMethod("all"); }
        TopicDescription d = get((KafkaFuture<Map<String, TopicDescription>>) all.invoke(result)).get(topic);
        for (TopicPartitionInfo p : d.partitions())
            out.println(p.partition() + "\t" + p.leader().id() + "\t" + ids(p.replicas()) + "\t" + ids(p.isr()));
    }

    static String ids(Collection<Node> nodes) {
        StringBuilder s = new StringBuilder();
        for (Node n : nodes) s.append(s.length() == 0 ? "" : ",").append(n.id());
        return s.toString();
    }

    void alter(String topic, Map<String, String> conf) throws Exception {
        try {
            Class.forName("Modern").getMethod("alter", Compat.class, String.class, Map.class).invoke(null, this, topic, conf);
            return;
        } catch (ClassNotFoundException e) {
            // An older client: it has the old call alone.
        }
        // The old call replaces all configs of the topic, so it starts from those it has.
        ConfigResource r = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        Map<String, String> now = new TreeMap<>();
        for (ConfigEntry e : get(admin().describeConfigs(Collections.singleton(r)).all()).get(r).entries()) if (!e.isDefault()) now.put(e.name(), e.value());
        for (Map.Entry<String, String> e : conf.entrySet()) if (e.getValue().isEmpty()) now.remove(e.getKey()); else now.put(e.getKey(), e.getValue());
        List<ConfigEntry> entries = new ArrayList<>();
        for (Map.Entry<String, String> e : now.entrySet()) entries.add(new ConfigEntry(e.getKey(), e.getValue()));
        Object result = AdminClient.class.getMethod("alterConfigs", Map.class).invoke(admin(), Collections.singletonMap(r, new Config(entries)));
        get((KafkaFuture<?>) result.getClass().getMethod("all").invoke(result));
    }

    void config(String topic, String[] names) throws Exception {
        Set<String> wanted = new HashSet<>();
        for (int i = 2; i < names.length; i++) wanted.add(names[i]);
        ConfigResource r = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        Map<String, ConfigEntry> found = new TreeMap<>();
        for (ConfigEntry e : get(admin().describeConfigs(Collections.singleton(r)).all()).get(r).entries()) if (wanted.contains(e.name())) found.put(e.name(), e);
        for (ConfigEntry e : found.values()) out.println(e.name() + "\t" + e.value() + "\t" + e.isDefault());
    }

    void cluster() throws Exception {
        Set<Integer> ids = new java.util.TreeSet<>();
        for (Node n : get(admin().describeCluster().nodes())) ids.add(n.id());
        out.println(get(admin().describeCluster().controller()).id() + "\t" + ids.toString().replaceAll("[\\[\\] ]", ""));
    }
}
