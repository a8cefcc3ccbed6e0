import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.apicurio.registry.utils.converter.avro.AvroData;
import java.io.ByteArrayOutputStream;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.header.Header;
import org.apache.kafka.connect.json.JsonConverter;
import org.apache.kafka.connect.source.SourceRecord;

/** Record OUT KEY=VALUE...: Debezium's own events, one a line of OUT, until the one of table "ended" or an error. */
public class Record {
  static String text(byte[] b) { return b == null ? "null" : new String(b, StandardCharsets.UTF_8); }

  /** As Connect's Avro converters write it, without their frame; null for what they refuse. */
  static String avro(AvroData data, Schema schema, Object value) throws Exception {
    if (value == null) return "null";
    org.apache.avro.Schema s;
    try { s = data.fromConnectSchema(schema); } catch (RuntimeException e) { return "null"; }
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    var encoder = EncoderFactory.get().directBinaryEncoder(out, null);
    new GenericDatumWriter<Object>(s).write(data.fromConnectData(schema, value), encoder);
    return "{\"schema\":" + s + ",\"payload\":\"" + Base64.getEncoder().encodeToString(out.toByteArray()) + "\"}";
  }

  static void write(PrintStream out, SourceRecord r, JsonConverter key, JsonConverter value, JsonConverter bare, AvroData avro) throws Exception {
    StringBuilder headers = new StringBuilder();
    for (Header h : r.headers())
      if (!h.key().startsWith("__debezium.context."))   // who ran: another value at each start
        headers.append(headers.length() == 0 ? "" : ",").append('"').append(h.key()).append("\":").append(text(value.fromConnectHeader(r.topic(), h.key(), h.schema(), h.value())));
    boolean tombstone = r.value() == null;
    out.println("{\"topic\":\"" + r.topic() + "\",\"headers\":{" + headers + "},\"key\":" + text(r.key() == null ? null : key.fromConnectData(r.topic(), r.keySchema(), r.key()))
      + ",\"value\":" + text(tombstone ? null : value.fromConnectData(r.topic(), r.valueSchema(), r.value()))
      + ",\"bare\":" + text(tombstone ? null : bare.fromConnectData(r.topic(), r.valueSchema(), r.value()))
      + ",\"avroKey\":" + avro(avro, r.keySchema(), r.key()) + ",\"avroValue\":" + avro(avro, r.valueSchema(), r.value()) + "}");
  }

  public static void main(String[] a) throws Exception {
    Properties p = new Properties();
    for (int i = 1; i < a.length; i++) { String[] kv = a[i].split("=", 2); p.setProperty(kv[0], kv[1]); }
    PrintStream out = new PrintStream(new FileOutputStream(a[0]), true, "UTF-8");
    JsonConverter key = new JsonConverter(), value = new JsonConverter(), bare = new JsonConverter();
    key.configure(Map.of("schemas.enable", "true"), true);
    value.configure(Map.of("schemas.enable", "true"), false);
    bare.configure(Map.of("schemas.enable", "false"), false);
    AvroData avro = new AvroData(1000);
    DebeziumEngine<?> engine = DebeziumEngine.create(io.debezium.embedded.Connect.class).using(p).notifying(
      (List<ChangeEvent<SourceRecord, SourceRecord>> records, DebeziumEngine.RecordCommitter<ChangeEvent<SourceRecord, SourceRecord>> committer) -> {
        for (var e : records) {
          SourceRecord r = e.value();
          try { write(out, r, key, value, bare, avro); } catch (Exception x) { x.printStackTrace(); Runtime.getRuntime().halt(1); }
          committer.markProcessed(e);
          if (r.topic().endsWith(".ended")) { out.close(); Runtime.getRuntime().halt(0); }
        }
        committer.markBatchFinished();
      }).using((ok, message, error) -> { System.err.println(message); if (error != null) error.printStackTrace(); Runtime.getRuntime().halt(1); }).build();
    engine.run();
  }
}
