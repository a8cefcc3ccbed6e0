import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.apicurio.registry.utils.converter.avro.AvroData;
import io.debezium.transforms.ExtractNewRecordState;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaAndValue;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.header.Header;
import org.apache.kafka.connect.json.JsonConverter;
import org.apache.kafka.connect.sink.SinkRecord;

/**
 * Read: what Kafka Connect and Debezium's own transform make of records. A line in is
 * {topic, key, value, headers: {name: value}, avroSchema, avroValue}, in base64 but for names and the schema; a line out
 * {key, value, headers} read by JsonConverter and written by it again, {unwrapped} by ExtractNewRecordState, and {avro},
 * the Avro value as Connect sees it, in JSON.
 */
public class Read {
  static final ObjectMapper json = new ObjectMapper();

  static JsonNode tree(byte[] b) throws Exception { return b == null ? json.nullNode() : json.readTree(b); }
  static byte[] bytes(JsonNode n) throws Exception { return n == null || n.isNull() ? null : n.binaryValue(); }

  public static void main(String[] a) throws Exception {
    JsonConverter keys = new JsonConverter(), values = new JsonConverter(), bare = new JsonConverter();
    keys.configure(Map.of("schemas.enable", "true"), true);
    values.configure(Map.of("schemas.enable", "true"), false);
    bare.configure(Map.of("schemas.enable", "false"), false);
    Map<String, ExtractNewRecordState<SinkRecord>> transforms = new HashMap<>();
    for (String mode : new String[] {"tombstone", "rewrite"}) {
      var t = new ExtractNewRecordState<SinkRecord>();
      t.configure(Map.of("delete.tombstone.handling.mode", mode, "add.fields", "op,table,lsn,source.ts_ms"));
      transforms.put(mode, t);
    }
    AvroData avro = new AvroData(1000);
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    PrintStream out = new PrintStream(System.out, false, "UTF-8");
    for (String line; (line = in.readLine()) != null; ) {
      JsonNode n = json.readTree(line);
      String topic = n.get("topic").asText();
      SchemaAndValue key = keys.toConnectData(topic, bytes(n.get("key"))), value = values.toConnectData(topic, bytes(n.get("value")));
      if (key.value() instanceof Struct s) s.validate();
      if (value.value() instanceof Struct s) s.validate();
      SinkRecord r = new SinkRecord(topic, 0, key.schema(), key.value(), value.schema(), value.value(), 0, 0L, TimestampType.CREATE_TIME);
      ObjectNode result = json.createObjectNode(), headers = result.putObject("headers"), unwrapped = result.putObject("unwrapped");
      for (var it = n.get("headers").fields(); it.hasNext(); ) {
        var h = it.next();
        SchemaAndValue v = values.toConnectHeader(topic, h.getKey(), bytes(h.getValue()));
        r.headers().add(h.getKey(), v);
        headers.set(h.getKey(), tree(values.fromConnectHeader(topic, h.getKey(), v.schema(), v.value())));
      }
      result.set("key", tree(key.value() == null ? null : keys.fromConnectData(topic, key.schema(), key.value())));
      result.set("value", tree(value.value() == null ? null : values.fromConnectData(topic, value.schema(), value.value())));
      for (var t : transforms.entrySet()) {
        SinkRecord u = t.getValue().apply(r);
        unwrapped.set(t.getKey(), u == null ? json.getNodeFactory().textNode("dropped") : tree(u.value() == null ? null : values.fromConnectData(topic, u.valueSchema(), u.value())));
      }
      if (n.hasNonNull("avroSchema")) {
        byte[] b = bytes(n.get("avroValue"));
        var schema = new org.apache.avro.Schema.Parser().parse(n.get("avroSchema").asText());
        Object datum = new GenericDatumReader<Object>(schema).read(null, DecoderFactory.get().binaryDecoder(b, 5, b.length - 5, null));
        SchemaAndValue v = avro.toConnectData(schema, datum);
        result.set("avro", tree(bare.fromConnectData(topic, v.schema(), v.value())));
      }
      out.println(json.writeValueAsString(result));
    }
    out.flush();
  }
}
