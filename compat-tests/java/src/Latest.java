import java.util.Collections;
import java.util.HashMap;
import java.util.Map;

import org.apache.kafka.clients.admin.ListOffsetsResult;
import org.apache.kafka.clients.admin.LogDirDescription;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.ReplicaInfo;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;

/** Commands of clients from 4.0 on. */
public class Latest {
    public static void run(Compat c, String[] a) throws Exception {
        switch (a[0]) {
            case "topicid": {
                TopicDescription d = Compat.get(c.admin().describeTopics(Collections.singleton(a[1])).allTopicNames()).get(a[1]);
                c.out.println(d.topicId().toString());
                return;
            }
            case "byid": {
                Uuid id = Uuid.fromString(a[1]);
                c.out.println(Compat.get(c.admin().describeTopics(TopicCollection.ofTopicIds(Collections.singleton(id))).allTopicIds()).get(id).name());
                return;
            }
            case "deletebyid":
                Compat.get(c.admin().deleteTopics(TopicCollection.ofTopicIds(Collections.singleton(Uuid.fromString(a[1])))).all());
                return;
            case "special": {
                // earliest, latest, max timestamp, earliest-local, latest-tiered
                TopicPartition tp = new TopicPartition(a[1], Integer.parseInt(a[2]));
                OffsetSpec[] specs = {OffsetSpec.earliest(), OffsetSpec.latest(), OffsetSpec.maxTimestamp(), OffsetSpec.earliestLocal(), OffsetSpec.latestTiered()};
                for (OffsetSpec s : specs) {
                    Map<TopicPartition, OffsetSpec> q = new HashMap<>();
                    q.put(tp, s);
                    ListOffsetsResult.ListOffsetsResultInfo i = Compat.get(c.admin().listOffsets(q).partitionResult(tp));
                    c.out.println(s.getClass().getSimpleName() + "\t" + i.offset() + "\t" + i.timestamp() + "\t" + i.leaderEpoch().orElse(-1));
                }
                return;
            }
            case "size": {
                // The bytes a partition takes on disk (DescribeLogDirs).
                TopicPartition tp = new TopicPartition(a[1], Integer.parseInt(a[2]));
                for (Map<String, LogDirDescription> dirs : Compat.get(c.admin().describeLogDirs(Collections.singleton(1)).allDescriptions()).values())
                    for (LogDirDescription d : dirs.values()) {
                        ReplicaInfo r = d.replicaInfos().get(tp);
                        if (r != null) c.out.println(r.size() + "\t" + r.offsetLag() + "\t" + r.isFuture());
                    }
                return;
            }
            default: throw new IllegalArgumentException("no command " + a[0]);
        }
    }
}
