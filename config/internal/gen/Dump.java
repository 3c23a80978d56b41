import java.lang.reflect.Field;
import java.util.*;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.common.config.ConfigDef.ConfigKey;
import org.apache.kafka.storage.internals.log.LogConfig;

/**
 * Prints the definitions of Apache Kafka's broker or topic keys as TSV, for tables/broker.tsv and
 * tables/topic.tsv. Run with Kafka's libs on the class path: java -cp 'libs/*' Dump.java broker|topic
 */
public class Dump {
  static Object field(Object o, String name) throws Exception {
    Field f = o.getClass().getDeclaredField(name);
    f.setAccessible(true);
    return f.get(o);
  }

  static String escape(Object o) {
    if (o == null) return "null";
    if (o == ConfigDef.NO_DEFAULT_VALUE) return "(required)";
    if (o instanceof List<?> l) return escape(String.join(",", l.stream().map(Object::toString).toList()));
    if (o instanceof Class<?> c) return c.getName();
    return o.toString().replace("\\", "\\\\").replace("\t", "\\t").replace("\r", "").replace("\n", "\\n");
  }

  static String validator(ConfigDef.Validator v) throws Exception {
    if (v == null) return "";
    String kind = v.getClass().getSimpleName();
    return switch (kind) {
      case "Range" -> "range " + escape(field(v, "min")) + " " + escape(field(v, "max"));
      case "ValidString" -> "in " + String.join(",", (List<String>) field(v, "validStrings"));
      case "CaseInsensitiveValidString" -> {
        // The values' order is that of a hash set; it shows in no error text that a test could pin.
        Set<String> s = new TreeSet<>((Set<String>) field(v, "validStrings"));
        yield "in-nocase " + String.join(",", s);
      }
      case "ValidList" -> {
        Object in = field(v, "validString");
        String values = String.join(",", (List<String>) field(in, "validStrings"));
        yield "list " + field(v, "isEmptyAllowed") + " " + field(v, "isNullAllowed") + " " + values;
      }
      default -> kind + " " + escape(v.toString());
    };
  }

  public static void main(String[] args) throws Exception {
    boolean broker = args[0].equals("broker");
    ConfigDef d = broker
        ? (ConfigDef) Class.forName("kafka.server.KafkaConfig").getMethod("configDef").invoke(null)
        : LogConfig.configDefCopy();
    for (ConfigKey k : new TreeMap<>(d.configKeys()).values()) {
      System.out.println(String.join("\t", k.name, k.type.toString(), escape(k.defaultValue), validator(k.validator),
          k.importance.toString(), Boolean.toString(k.internalConfig), escape(k.documentation)));
    }
  }
}
