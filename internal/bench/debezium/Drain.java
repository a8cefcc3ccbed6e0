import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.Json;
import java.io.IOException;
import java.io.Reader;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.producer.Callback;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Drain ENGINE PRODUCER TOPIC ROWS: Debezium's embedded engine, as the properties file ENGINE configures it,
 * into a topic of the Kafka that the properties file PRODUCER names.
 *
 * It ends when ROWS rows are acknowledged, or when standard input ends, and prints one line of JSON. Seconds
 * and CPU-seconds are counted twice: from the first batch, and from the start of the engine (seconds) or of
 * the JVM (CPU).
 */
public final class Drain {
  private final long wanted;
  private final String topic;
  private final KafkaProducer<String, String> out;
  private final CountDownLatch end = new CountDownLatch(1);
  private final Callback acknowledged = (metadata, failure) -> acknowledge(failure);
  private final long started = System.nanoTime();

  private long firstBatch;     // written before the first send, read after its acknowledgement
  private double cpuBefore;
  private long characters;
  private volatile long rows;  // acknowledged; only the producer's thread writes it
  private volatile long lastRow;
  private volatile Throwable failure;

  private Drain(Properties producer, String topic, long wanted) {
    this.wanted = wanted;
    this.topic = topic;
    this.out = new KafkaProducer<>(producer, new StringSerializer(), new StringSerializer());
  }

  public static void main(String[] args) throws Exception {
    Drain drain = new Drain(load(args[1]), args[2], Long.parseLong(args[3]));
    Thread watcher = new Thread(drain::awaitParent);
    watcher.setDaemon(true);
    watcher.start();
    int status = drain.run(load(args[0]));
    System.out.flush();
    Runtime.getRuntime().halt(status);  // the slot is a copy: nothing is worth an orderly stop
  }

  private int run(Properties engine) throws Exception {
    DebeziumEngine<ChangeEvent<String, String>> source =
        DebeziumEngine.create(Json.class)
            .using(engine)
            .using((boolean success, String message, Throwable error) -> {
              if (!success) fail(new IllegalStateException(message, error));
              out.flush();  // whatever is acknowledged then is all that will be
              end.countDown();
            })
            .notifying(this::batch)
            .build();
    Thread runner = new Thread(source);
    runner.setDaemon(true);
    runner.start();
    end.await();
    double seconds = (lastRow - firstBatch) / 1e9;
    if (failure != null || rows < wanted) {
      System.err.println(rows + " of " + wanted + " rows were acknowledged");
      if (failure != null) failure.printStackTrace();
      return 1;
    }
    System.out.printf(
        Locale.ROOT,
        "{\"rows\":%d,\"seconds\":%.3f,\"seconds_whole\":%.3f,\"cpu_s\":%.3f,\"cpu_s_whole\":%.3f,\"rss_mb\":%.0f,\"bytes_per_row\":%.0f,\"java\":\"%s\"}%n",
        rows, seconds, (lastRow - started) / 1e9, cpu() - cpuBefore, cpu(), peak(),
        (double) characters / Math.max(rows, 1), System.getProperty("java.version"));
    return 0;
  }

  private void batch(
      List<ChangeEvent<String, String>> events,
      DebeziumEngine.RecordCommitter<ChangeEvent<String, String>> committer) throws InterruptedException {
    if (firstBatch == 0) {
      cpuBefore = cpu();
      firstBatch = System.nanoTime();
    }
    for (ChangeEvent<String, String> event : events) {
      if (event.value() != null) {  // not a tombstone
        characters += event.value().length();
        out.send(new ProducerRecord<>(topic, event.key(), event.value()), acknowledged);
      }
      committer.markProcessed(event);
    }
    committer.markBatchFinished();
  }

  private void acknowledge(Exception refused) {
    if (refused != null) {
      fail(refused);
      end.countDown();
      return;
    }
    long n = rows + 1;
    if (n == wanted) lastRow = System.nanoTime();
    rows = n;
    if (n == wanted) end.countDown();
  }

  private synchronized void fail(Throwable why) {
    if (failure == null) failure = why;
  }

  /** Whoever started this process holds its standard input open for as long as it is wanted. */
  private void awaitParent() {
    try {
      while (System.in.read() >= 0) {}
    } catch (IOException gone) {
      // as good as its end
    }
    end.countDown();
  }

  private static double cpu() {
    var system = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    return system.getProcessCpuTime() / 1e9;
  }

  /** Peak resident memory in MB; 0 where there is no /proc. */
  private static double peak() {
    try {
      for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
        if (line.startsWith("VmHWM:")) return Long.parseLong(line.replaceAll("\\D", "")) * 1024 / 1e6;
      }
    } catch (IOException none) {
      // not Linux
    }
    return 0;
  }

  private static Properties load(String file) throws IOException {
    Properties p = new Properties();
    try (Reader in = Files.newBufferedReader(Path.of(file), StandardCharsets.UTF_8)) {
      p.load(in);
    }
    return p;
  }
}
