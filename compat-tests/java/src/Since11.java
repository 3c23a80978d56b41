import java.util.Collections;
import java.util.HashMap;
import java.util.Map;

import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.common.TopicPartition;

/** Commands of clients from 1.1 on. */
public class Since11 {
    public static void run(Compat c, String[] a) throws Exception {
        if (a[0].equals("partitions")) {
            Compat.get(c.admin().createPartitions(Collections.singletonMap(a[1], NewPartitions.increaseTo(Integer.parseInt(a[2])))).all());
            return;
        }
        TopicPartition tp = new TopicPartition(a[1], Integer.parseInt(a[2]));
        Map<TopicPartition, RecordsToDelete> m = new HashMap<>();
        m.put(tp, RecordsToDelete.beforeOffset(Long.parseLong(a[3])));
        c.out.println(Compat.get(c.admin().deleteRecords(m).lowWatermarks().get(tp)).lowWatermark());
    }
}
