import java.io.IOException;
import java.io.Reader;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Locale;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.processor.TimestampExtractor;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Aggregate fold|restore SETTINGS INPUT OUTPUT RECORDS: count, sum and last value per key, over all
 * time and per hour, by Kafka Streams as the properties file SETTINGS configures it. The totals go to the
 * topic OUTPUT.
 *
 * A record's value is 64 bytes, big-endian: what it adds to the sum (8), event time in ms (8), what it adds
 * to the count (8), the last value (8), padding. So an update or a deletion arrives as what it changes.
 *
 * It ends when RECORDS records are processed and committed, or when standard input ends, and prints one line
 * of JSON. Seconds and CPU-seconds are counted twice: from the first record, and from the start. restore,
 * after fold and with another, empty state directory, ends as soon as the stores are restored.
 */
public final class Aggregate {
  private final AtomicLong firstRecord = new AtomicLong();
  private final AtomicLong seen = new AtomicLong();
  private final AtomicLong outputs = new AtomicLong();
  private final CountDownLatch end = new CountDownLatch(1);
  private final long started = System.nanoTime();
  private final long wanted;
  private final boolean restore;

  private volatile double cpuBefore;
  private volatile Throwable failure;

  private Aggregate(long wanted, boolean restore) {
    this.wanted = wanted;
    this.restore = restore;
  }

  public static void main(String[] args) throws Exception {
    Properties settings = load(args[1]);
    Aggregate work = new Aggregate(Long.parseLong(args[4]), args[0].equals("restore"));
    Thread watcher = new Thread(work::awaitParent);
    watcher.setDaemon(true);
    watcher.start();
    int status = work.run(settings, args[2], args[3]);
    System.out.flush();
    Runtime.getRuntime().halt(status);
  }

  private int run(Properties settings, String input, String output) throws Exception {
    KafkaStreams streams = new KafkaStreams(topology(input, output), settings);
    streams.setUncaughtExceptionHandler(
        why -> {
          fail(why);
          return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
    streams.setStateListener(
        (now, before) -> {
          if (restore && now == KafkaStreams.State.RUNNING) end.countDown();
        });
    streams.start();
    end.await();
    double running = (System.nanoTime() - started) / 1e9;
    double dropped = dropped(streams);
    boolean closed = streams.close(Duration.ofSeconds(120)); // which flushes and commits
    double whole = restore ? running : (System.nanoTime() - started) / 1e9;
    if (failure != null || !closed || (!restore && (seen.get() != wanted || dropped > 0))) {
      System.err.printf(
          Locale.ROOT, "%d of %d records were processed, %.0f dropped, closed: %b%n", seen.get(), wanted, dropped, closed);
      if (failure != null) failure.printStackTrace();
      return 1;
    }
    double seconds = restore ? whole : whole - (firstRecord.get() - started) / 1e9;
    System.out.printf(
        Locale.ROOT,
        "{\"rows\":%d,\"seconds\":%.3f,\"seconds_whole\":%.3f,\"cpu_s\":%.3f,\"cpu_s_whole\":%.3f,\"rss_mb\":%.0f,\"outputs\":%d,\"java\":\"%s\"}%n",
        seen.get(), seconds, whole, cpu() - cpuBefore, cpu(), peak(), outputs.get(), System.getProperty("java.version"));
    return 0;
  }

  private org.apache.kafka.streams.Topology topology(String input, String output) {
    StreamsBuilder builder = new StreamsBuilder();
    KGroupedStream<String, byte[]> byKey =
        builder
            .stream(
                input,
                Consumed.with(Serdes.String(), Serdes.ByteArray())
                    .withTimestampExtractor((TimestampExtractor) this::eventTime))
            .groupByKey(Grouped.with(Serdes.String(), Serdes.ByteArray()));
    byKey
        .aggregate(
            () -> null,
            (key, record, total) -> counted(add(total, record)),
            Materialized.<String, byte[], KeyValueStore<Bytes, byte[]>>as("totals")
                .withKeySerde(Serdes.String())
                .withValueSerde(Serdes.ByteArray()))
        .toStream()
        .peek((key, total) -> outputs.incrementAndGet())
        .to(output, Produced.with(Serdes.String(), Serdes.ByteArray()));
    byKey
        .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofHours(1), Duration.ofHours(24)))
        .aggregate(
            () -> null,
            (key, record, tile) -> add(tile, record),
            Materialized.<String, byte[], WindowStore<Bytes, byte[]>>as("tiles")
                .withKeySerde(Serdes.String())
                .withValueSerde(Serdes.ByteArray())
                .withRetention(Duration.ofHours(30)));
    return builder.build();
  }

  private long eventTime(ConsumerRecord<Object, Object> record, long highest) {
    if (firstRecord.get() == 0 && firstRecord.compareAndSet(0, System.nanoTime())) cpuBefore = cpu();
    return ByteBuffer.wrap((byte[]) record.value()).getLong(8);
  }

  private static byte[] add(byte[] to, byte[] record) {
    ByteBuffer in = ByteBuffer.wrap(record);
    long sum = in.getLong();
    long at = in.getLong();
    long count = in.getLong();
    long last = in.getLong();
    if (to != null) {
      ByteBuffer before = ByteBuffer.wrap(to);
      count += before.getLong();
      sum += before.getLong();
    }
    return ByteBuffer.allocate(32).putLong(count).putLong(sum).putLong(last).putLong(at).array();
  }

  /** Every record passes here once: it is in the totals then, and not committed yet. */
  private byte[] counted(byte[] total) {
    if (seen.incrementAndGet() == wanted) {
      // The tiles of this record come after its totals, in the same task: they are there before it closes.
      end.countDown();
    }
    return total;
  }

  private static double dropped(KafkaStreams streams) {
    return streams.metrics().entrySet().stream()
        .filter(m -> m.getKey().name().equals("dropped-records-total"))
        .mapToDouble(m -> ((Number) m.getValue().metricValue()).doubleValue())
        .sum();
  }

  private synchronized void fail(Throwable why) {
    if (failure == null) failure = why;
    end.countDown();
  }

  /** Whoever started this process holds its standard input open for as long as it is wanted. */
  private void awaitParent() {
    try {
      while (System.in.read() >= 0) {}
    } catch (IOException gone) {
      // as good as its end
    }
    fail(new IllegalStateException("it is not wanted any more"));
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
