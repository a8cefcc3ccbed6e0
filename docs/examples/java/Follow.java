import com.fasterxml.jackson.databind.ObjectMapper;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.avro.Conversions;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Follows a delta topic: brokers, topic, address of a node's HTTP port, after how many deltas to stop. */
public class Follow {
  record Place(int partition, int generation) {}

  final String registry;
  final Map<Integer, Schema> schemas = new HashMap<>();
  final HttpClient http = HttpClient.newHttpClient();
  final ObjectMapper json = new ObjectMapper();
  final GenericData types = new GenericData();

  Follow(String registry) {
    this.registry = registry;
    types.addLogicalTypeConversion(new Conversions.DecimalConversion());
  }

  /** A record is a zero, the schema's id in four bytes, Avro. */
  GenericRecord read(byte[] value) throws Exception {
    ByteBuffer b = ByteBuffer.wrap(value);
    if (b.get() != 0) throw new IllegalArgumentException("no schema's frame");
    int id = b.getInt();
    Schema schema = schemas.get(id);
    if (schema == null) {
      HttpResponse<String> r = http.send(HttpRequest.newBuilder(URI.create(registry + "/schemas/ids/" + id)).build(), HttpResponse.BodyHandlers.ofString());
      if (r.statusCode() != 200) throw new IllegalStateException("schema " + id + ": " + r.body());
      schema = new Schema.Parser().parse(json.readTree(r.body()).get("schema").asText());
      schemas.put(id, schema);
    }
    return new GenericDatumReader<GenericRecord>(schema, schema, types).read(null, DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, null));
  }

  /** What JSON has no form of is written as text: decimals with all their digits. */
  static Map<String, Object> plain(GenericRecord r) {
    if (r == null) return null;
    Map<String, Object> out = new LinkedHashMap<>();
    for (Schema.Field f : r.getSchema().getFields()) {
      Object v = r.get(f.pos());
      out.put(f.name(), v == null || v instanceof Number && !(v instanceof java.math.BigDecimal) || v instanceof Boolean ? v : v.toString());
    }
    return out;
  }

  void follow(String brokers, String topic, long limit) throws Exception {
    Map<String, Object> config = Map.of("bootstrap.servers", brokers, "isolation.level", "read_committed", "enable.auto.commit", false);
    try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new ByteArrayDeserializer())) {
      List<TopicPartition> partitions = consumer.partitionsFor(topic).stream().map(p -> new TopicPartition(topic, p.partition())).toList();
      consumer.assign(partitions);
      consumer.seekToBeginning(partitions);
      Map<Place, Long> last = new HashMap<>();
      Map<String, GenericRecord> rows = new HashMap<>();
      while (limit != 0) {
        for (ConsumerRecord<String, byte[]> r : consumer.poll(Duration.ofSeconds(1))) {
          if (limit == 0) break;
          GenericRecord d = read(r.value());
          Place place = new Place(r.partition(), (int) d.get("generation"));
          long before = last.getOrDefault(place, 0L), sequence = (long) d.get("sequence");
          if (sequence <= before) continue; // we have it
          if (before > 0 && sequence > before + 1)
            throw new IllegalStateException("partition " + r.partition() + ": deltas " + (before + 1) + " to " + (sequence - 1) + " are missing");
          last.put(place, sequence);
          GenericRecord features = (GenericRecord) d.get("features");
          if (features == null) rows.remove(r.key()); else rows.put(r.key(), features);
          Map<String, Object> line = new LinkedHashMap<>();
          line.put("partition", r.partition());
          line.put("sequence", sequence);
          line.put("version", d.get("version"));
          line.put("op", d.get("op").toString());
          line.put("key", plain((GenericRecord) d.get("key")));
          line.put("features", plain(features));
          line.put("rows", rows.size());
          System.out.println(json.writeValueAsString(line));
          limit--;
        }
      }
    }
  }

  public static void main(String[] a) throws Exception {
    new Follow(a[2]).follow(a[0], a[1], a.length > 3 ? Long.parseLong(a[3]) : -1);
  }
}
