package org.apache.kafka.common.test;

import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;

import kafka.server.BrokerServer;
import kafka.server.ControllerServer;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.config.ConfigResource;
import org.opentest4j.TestAbortedException;

/**
 * Takes the place of the class of the same name with which Kafka's integration tests start brokers in their own process:
 * "starting" a cluster here means to empty the broker at the address in the system property gregor.bootstrap and to
 * give it what can be set of the properties. Tests that look into a broker's objects find none, and are not for us.
 */
public class KafkaClusterTestKit implements AutoCloseable {
    private static final ConfigResource BROKERS = new ConfigResource(ConfigResource.Type.BROKER, "");
    private static final int SECONDS = 20;

    private final TestKitNodes nodes;
    private final Map<String, String> properties = new TreeMap<>();
    private final List<String> set = new ArrayList<>();
    private final MockFaultHandler fatal = new MockFaultHandler("fatal");
    private final MockFaultHandler other = new MockFaultHandler("other");

    public static class Builder {
        private final TestKitNodes nodes;
        private final Map<String, Object> properties = new HashMap<>();

        public Builder(TestKitNodes nodes) {
            this.nodes = nodes;
        }

        public Builder setConfigProp(String key, Object value) {
            properties.put(key, value);
            return this;
        }

        public Builder setStandalone(boolean ignored) {
            return this;
        }

        public Builder setInitialVoterSet(Map<Integer, Uuid> ignored) {
            return this;
        }

        public Builder setDeleteOnClose(boolean ignored) {
            return this;
        }

        public KafkaClusterTestKit build() {
            return new KafkaClusterTestKit(nodes, properties);
        }
    }

    private KafkaClusterTestKit(TestKitNodes nodes, Map<String, Object> given) {
        this.nodes = nodes;
        if (!nodes.brokerListenerProtocol().name.equals("PLAINTEXT")) throw new TestAbortedException("needs a listener of " + nodes.brokerListenerProtocol());
        given.forEach((k, v) -> properties.put(k, String.valueOf(v)));
    }

    private interface Step {
        void run(Admin admin) throws Exception;
    }

    /** What cannot be done is left: the test then says what it misses. */
    private void attempt(Step step) {
        try (Admin admin = admin()) {
            step.run(admin);
        } catch (Exception e) {
            System.err.println(e);
        }
    }

    private void empty() {
        attempt(admin -> {
            Set<String> topics = admin.listTopics().names().get(SECONDS, TimeUnit.SECONDS);
            if (!topics.isEmpty()) admin.deleteTopics(topics).all().get(SECONDS, TimeUnit.SECONDS);
        });
        attempt(admin -> {
            List<String> groups = new ArrayList<>();
            admin.listGroups().all().get(SECONDS, TimeUnit.SECONDS).forEach(g -> groups.add(g.groupId()));
            if (!groups.isEmpty()) admin.deleteConsumerGroups(groups).all().get(SECONDS, TimeUnit.SECONDS);
        });
    }

    private void alter(AlterConfigOp.OpType kind, String key, String value) {
        attempt(admin -> {
            Collection<AlterConfigOp> ops = List.of(new AlterConfigOp(new ConfigEntry(key, value), kind));
            admin.incrementalAlterConfigs(Map.of(BROKERS, ops)).all().get(SECONDS, TimeUnit.SECONDS);
            if (kind == AlterConfigOp.OpType.SET) set.add(key);
        });
    }

    public void format() {
    }

    public void startup() {
        empty();
        properties.forEach((k, v) -> alter(AlterConfigOp.OpType.SET, k, v));
    }

    public void waitForReadyBrokers() {
        attempt(admin -> admin.describeCluster().nodes().get(SECONDS, TimeUnit.SECONDS));
    }

    public Admin admin() {
        return admin(Map.of(), false);
    }

    public Admin admin(Map<String, Object> configs) {
        return admin(configs, false);
    }

    public Admin admin(Map<String, Object> configs, boolean controllers) {
        if (controllers) throw new TestAbortedException("needs a controller's listener");
        Map<String, Object> all = new HashMap<>(configs);
        all.putIfAbsent("bootstrap.servers", bootstrapServers());
        return Admin.create(all);
    }

    public String bootstrapServers() {
        return System.getProperty("gregor.bootstrap");
    }

    public String bootstrapControllers() {
        throw new TestAbortedException("needs a controller's listener");
    }

    public Map<Integer, ControllerServer> controllers() {
        return Map.of();
    }

    public Map<Integer, BrokerServer> brokers() {
        return Map.of();
    }

    public TestKitNodes nodes() {
        return nodes;
    }

    public MockFaultHandler fatalFaultHandler() {
        return fatal;
    }

    public MockFaultHandler nonFatalFaultHandler() {
        return other;
    }

    @Override
    public void close() {
        set.forEach(k -> alter(AlterConfigOp.OpType.DELETE, k, ""));
        empty();
    }
}
