import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListOffsetsResult;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;

/** Commands of clients from 2.8 on. */
public class Modern {
    public static void run(Compat c, String[] a) throws Exception {
        switch (a[0]) {
            case "latest": latest(c, new TopicPartition(a[1], Integer.parseInt(a[2]))); return;
            default: Class.forName("Latest").getMethod("run", Compat.class, String[].class).invoke(null, c, a);
        }
    }

    public static void alter(Compat c, String topic, Map<String, String> conf) throws Exception {
        List<AlterConfigOp> ops = new ArrayList<>();
        for (Map.Entry<String, String> e : conf.entrySet())
            ops.add(new AlterConfigOp(new ConfigEntry(e.getKey(), e.getValue()), e.getValue().isEmpty() ? AlterConfigOp.OpType.DELETE : AlterConfigOp.OpType.SET));
        Map<ConfigResource, Collection<AlterConfigOp>> m = new HashMap<>();
        m.put(new ConfigResource(ConfigResource.Type.TOPIC, topic), ops);
        Compat.get(c.admin().incrementalAlterConfigs(m).all());
    }

    static void latest(Compat c, TopicPartition tp) throws Exception {
        Map<TopicPartition, OffsetSpec> q = new HashMap<>();
        q.put(tp, OffsetSpec.latest());
        ListOffsetsResult.ListOffsetsResultInfo i = Compat.get(c.admin().listOffsets(q).partitionResult(tp));
        c.out.println(i.offset() + "\t" + i.leaderEpoch().orElse(-1));
    }
}
