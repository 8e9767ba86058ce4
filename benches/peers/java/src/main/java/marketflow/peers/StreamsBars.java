package marketflow.peers;

import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.state.BuiltInDslStoreSuppliers;
import org.apache.kafka.streams.state.WindowStore;

/** The job on Kafka Streams. Environment: BOOTSTRAP TOPIC OUT GROUP STATE_DIR TRADE_SCHEMA CONTROL_SCHEMA EXPECT(bars) GUARANTEE STORE(rocksdb|memory)
 *  THREADS COMMIT_MS CACHE_BYTES LIMIT_S EXTRA("consumer.max.poll.records=5000,...") */
public final class StreamsBars {
    static String env(String k, String d) { String v = System.getenv(k); return v == null || v.isEmpty() ? d : v; }

    public static void main(String[] a) throws Exception {
        String guarantee = env("GUARANTEE", "at_least_once"), store = env("STORE", "rocksdb");
        long expect = Long.parseLong(System.getenv("EXPECT"));
        Path dir = Paths.get(System.getenv("STATE_DIR"));
        Properties p = new Properties();
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, System.getenv("GROUP"));
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, System.getenv("BOOTSTRAP"));
        p.put(StreamsConfig.STATE_DIR_CONFIG, dir.toString());
        p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, guarantee);
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, env("THREADS", "2"));
        if (!env("COMMIT_MS", "").isEmpty()) p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, env("COMMIT_MS", ""));
        if (!env("CACHE_BYTES", "").isEmpty()) p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, env("CACHE_BYTES", ""));
        if (!env("EXTRA", "").isEmpty()) for (String kv : env("EXTRA", "").split(",")) p.put(kv.substring(0, kv.indexOf('=')), kv.substring(kv.indexOf('=') + 1));
        p.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        p.put(StreamsConfig.producerPrefix("compression.type"), "lz4");
        p.put(StreamsConfig.producerPrefix("linger.ms"), "50");
        p.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        p.put(StreamsConfig.DSL_STORE_SUPPLIERS_CLASS_CONFIG, store.equals("memory")
            ? BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers.class : BuiltInDslStoreSuppliers.RocksDBDslStoreSuppliers.class);

        Serde<Tick> tick = Serdes.serdeFrom((t, x) -> { throw new UnsupportedOperationException(); }, (t, b) -> b == null ? null : Tick.decode(b));
        Serde<Bar> bar = Serdes.serdeFrom((t, x) -> x == null ? null : x.toState(), (t, b) -> b == null ? null : Bar.fromState(b));

        AtomicLong out = new AtomicLong();
        CountDownLatch done = new CountDownLatch(1);
        StreamsBuilder sb = new StreamsBuilder();
        // a control that says nothing here has no value; its time must not be older than what came before it
        KGroupedStream<String, Tick> g = sb.stream(System.getenv("TOPIC"), Consumed.with(Serdes.String(), tick)
            .withTimestampExtractor((r, before) -> r.value() == null ? Math.max(before, 0) : ((Tick) r.value()).eventUs / 1000))
            .filter((k, v) -> v != null).groupByKey(Grouped.with(Serdes.String(), tick));
        for (int s : new int[] {60, 300, 900}) {
            Materialized<String, Bar, WindowStore<Bytes, byte[]>> m = Materialized.<String, Bar, WindowStore<Bytes, byte[]>>as("bars-" + s)
                .withKeySerde(Serdes.String()).withValueSerde(bar).withCachingEnabled();
            // suppress, not emitStrategy(onWindowClose): that one looks at most once a second and left bars unsent when the input stopped
            g.windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofSeconds(s), Duration.ofSeconds(5)))
                .aggregate(Bar::new, (k, v, b) -> b.add(v), m)
                .suppress(Suppressed.untilWindowCloses(Suppressed.BufferConfig.unbounded()))
                .toStream().map((k, b) -> KeyValue.pair(k.key(), b.toAvro(k.key(), s, k.window().start() * 1000)))
                .peek((k, v) -> { if (out.incrementAndGet() >= expect) done.countDown(); })
                .to(System.getenv("OUT"), Produced.with(Serdes.String(), Serdes.ByteArray()));
        }
        KafkaStreams ks = new KafkaStreams(sb.build(), p);
        ks.setUncaughtExceptionHandler(e -> { e.printStackTrace(); System.exit(3); return null; });
        ks.start();
        if (!done.await(Long.parseLong(env("LIMIT_S", "540")), java.util.concurrent.TimeUnit.SECONDS)) {
            System.err.println("not done: " + out.get() + " of " + expect + " bars"); Runtime.getRuntime().halt(4);
        }
        boolean closed = ks.close(Duration.ofSeconds(60)); // flushes and commits: the bars are on the broker after it
        System.out.println("bars=" + out.get() + " closed=" + closed);
        System.exit(closed ? 0 : 5);
    }
}
