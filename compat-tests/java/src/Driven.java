import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

import org.apache.kafka.clients.consumer.CloseOptions;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Clients of a chaos run, told what to do by lines: see harness/driver.go. Each name is a thread of its own with a producer, a consumer or both. */
public class Driven {
    static final PrintStream OUT = new PrintStream(System.out, false, StandardCharsets.UTF_8);

    public static void main(String[] args) throws Exception {
        Map<String, Driven> clients = new HashMap<>();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = in.readLine()) != null; ) {
            String[] a = line.split("\t", -1);
            Driven d = clients.computeIfAbsent(a[1], name -> new Driven());
            String command = a[2];
            if (command.equals("close") || command.equals("drop")) clients.remove(a[1]);
            d.thread.submit(() -> d.answer(a[0], command, Arrays.copyOfRange(a, 3, a.length)));
        }
        System.exit(0);
    }

    final ExecutorService thread = Executors.newSingleThreadExecutor();
    KafkaProducer<String, String> producer;
    KafkaConsumer<String, String> consumer;
    List<String> events = new ArrayList<>();

    void answer(String id, String command, String[] args) {
        List<String> lines = new ArrayList<>();
        String end = ".";
        try {
            run(command, args, lines);
        } catch (Throwable t) {
            end = failure(t);
        }
        StringBuilder b = new StringBuilder();
        for (String line : lines) b.append(id).append('\t').append(line).append('\n');
        b.append(id).append('\t').append(end).append('\n');
        synchronized (OUT) {
            OUT.print(b);
            OUT.flush();
        }
    }

    static String failure(Throwable t) {
        if (t instanceof ExecutionException && t.getCause() != null) t = t.getCause();
        int code = Errors.forException(t).code();
        return "!\t" + code + "\t" + t.getClass().getSimpleName() + ": " + String.valueOf(t.getMessage()).replaceAll("\\s+", " ");
    }

    void run(String command, String[] a, List<String> lines) throws Exception {
        switch (command) {
            case "producer":
                producer = new KafkaProducer<>(config(a), new StringSerializer(), new StringSerializer());
                return;
            case "consumer":
                consumer = new KafkaConsumer<>(config(a), new StringDeserializer(), new StringDeserializer());
                return;
            case "init":
                producer.initTransactions();
                return;
            case "begin":
                producer.beginTransaction();
                return;
            case "commit":
                producer.commitTransaction();
                return;
            case "abort":
                producer.abortTransaction();
                return;
            case "send":
                send(a, lines);
                return;
            case "sendoffsets":
                producer.sendOffsetsToTransaction(offsets(a), consumer.groupMetadata());
                return;
            case "assign":
                Map<TopicPartition, OffsetAndMetadata> at = offsets(a);
                consumer.assign(at.keySet());
                at.forEach((tp, o) -> consumer.seek(tp, o.offset()));
                return;
            case "subscribe":
                consumer.subscribe(Collections.singleton(a[0]), new Listener());
                return;
            case "poll":
                poll(Duration.ofMillis(Long.parseLong(a[0])), lines);
                return;
            case "commitoffsets":
                lines.add("member\t" + consumer.groupMetadata().memberId());
                consumer.commitSync(offsets(a));
                return;
            case "rewind":
                rewind();
                return;
            case "close":
                if (consumer != null) consumer.close(CloseOptions.timeout(Duration.ofSeconds(5)));
                if (producer != null) producer.close(Duration.ofSeconds(5));
                thread.shutdown();
                return;
            case "drop":
                if (producer != null) producer.close(Duration.ZERO);
                if (consumer != null) consumer.close(CloseOptions.timeout(Duration.ZERO).withGroupMembershipOperation(CloseOptions.GroupMembershipOperation.REMAIN_IN_GROUP));
                thread.shutdown();
                return;
            default:
                throw new IllegalArgumentException("no such command: " + command);
        }
    }

    static Properties config(String[] pairs) {
        Properties p = new Properties();
        for (String pair : pairs) {
            int at = pair.indexOf('=');
            p.put(pair.substring(0, at), pair.substring(at + 1));
        }
        return p;
    }

    /** Topic, partition and offset of each. */
    static Map<TopicPartition, OffsetAndMetadata> offsets(String[] a) {
        Map<TopicPartition, OffsetAndMetadata> out = new HashMap<>();
        for (int i = 0; i + 2 < a.length; i += 3) out.put(new TopicPartition(a[i], Integer.parseInt(a[i + 1])), new OffsetAndMetadata(Long.parseLong(a[i + 2])));
        return out;
    }

    void send(String[] a, List<String> lines) throws InterruptedException {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (int i = 0; i + 2 < a.length; i += 3) {
            try {
                sent.add(producer.send(new ProducerRecord<>(a[i], Integer.parseInt(a[i + 1]), null, a[i + 2])));
            } catch (RuntimeException e) {
                sent.add(java.util.concurrent.CompletableFuture.failedFuture(e));
            }
        }
        producer.flush();
        for (Future<RecordMetadata> f : sent) {
            try {
                lines.add("sent\t" + f.get().offset());
            } catch (ExecutionException e) {
                lines.add(failure(e).replaceFirst("!", "failed"));
            }
        }
    }

    void poll(Duration limit, List<String> lines) {
        events = lines;
        for (ConsumerRecord<String, String> r : consumer.poll(limit)) {
            lines.add(String.join("\t", "record", r.topic(), "" + r.partition(), "" + r.offset(), "" + r.leaderEpoch().orElse(0), r.value()));
        }
    }

    /** After an aborted transaction: to what is committed, or to the first record. */
    void rewind() {
        Map<TopicPartition, OffsetAndMetadata> committed = consumer.committed(consumer.assignment());
        for (TopicPartition tp : consumer.assignment()) {
            OffsetAndMetadata o = committed.get(tp);
            if (o == null) consumer.seekToBeginning(Collections.singleton(tp));
            else consumer.seek(tp, o);
        }
    }

    class Listener implements ConsumerRebalanceListener {
        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            say("came\t" + consumer.groupMetadata().memberId() + "\t" + consumer.groupMetadata().generationId(), partitions);
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            say("went", partitions);
        }

        void say(String what, Collection<TopicPartition> partitions) {
            StringBuilder b = new StringBuilder(what);
            for (TopicPartition tp : partitions) b.append('\t').append(tp.topic()).append('\t').append(tp.partition());
            events.add(b.toString());
        }
    }
}
