package marketflow.peers;

import java.time.Duration;
import org.apache.flink.api.common.RuntimeExecutionMode;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.streaming.api.datastream.*;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.producer.ProducerRecord;

/** The job on Apache Flink's local executor. Environment: BOOTSTRAP TOPIC OUT GROUP STATE_DIR TRADE_SCHEMA CONTROL_SCHEMA PARALLELISM
 *  CHECKPOINT_MS GUARANTEE(AT_LEAST_ONCE|EXACTLY_ONCE|NONE) */
public final class FlinkBars {
    static String env(String k, String d) { String v = System.getenv(k); return v == null || v.isEmpty() ? d : v; }

    public static class Out { public String instrument; public int intervalS; public long openUs; public Bar bar; public Out() {} }

    public static class Decode implements DeserializationSchema<Tick> {
        /** Null: nothing is handed on. */
        @Override public Tick deserialize(byte[] b) { return Tick.decode(b); }
        @Override public boolean isEndOfStream(Tick t) { return false; }
        @Override public TypeInformation<Tick> getProducedType() { return TypeInformation.of(Tick.class); }
    }
    public static class Agg implements AggregateFunction<Tick, Bar, Bar> {
        @Override public Bar createAccumulator() { return new Bar(); }
        @Override public Bar add(Tick v, Bar b) { return b.add(v); }
        @Override public Bar getResult(Bar b) { return b; }
        @Override public Bar merge(Bar a, Bar b) { throw new UnsupportedOperationException("tumbling windows do not merge"); }
    }
    public static class Emit extends ProcessWindowFunction<Bar, Out, String, TimeWindow> {
        final int s;
        public Emit(int s) { this.s = s; }
        @Override public void process(String k, Context c, Iterable<Bar> in, Collector<Out> o) {
            if (k.equals(Tick.END)) return; // its own window, closed by the end of the bounded input
            Out x = new Out(); x.instrument = k; x.intervalS = s; x.openUs = c.window().getStart() * 1000; x.bar = in.iterator().next();
            o.collect(x);
        }
    }
    public static class Ser implements KafkaRecordSerializationSchema<Out> {
        final String topic;
        public Ser(String t) { topic = t; }
        @Override public ProducerRecord<byte[], byte[]> serialize(Out x, KafkaSinkContext c, Long ts) {
            return new ProducerRecord<>(topic, x.instrument.getBytes(java.nio.charset.StandardCharsets.UTF_8), x.bar.toAvro(x.instrument, x.intervalS, x.openUs));
        }
    }

    public static void main(String[] a) throws Exception {
        String bs = System.getenv("BOOTSTRAP");
        Configuration c = new Configuration();
        c.setString("execution.runtime-mode", "STREAMING");
        c.setString("state.backend.type", "hashmap");
        c.setString("execution.checkpointing.storage", "filesystem");
        c.setString("execution.checkpointing.dir", "file://" + System.getenv("STATE_DIR"));
        c.setString("execution.checkpointing.interval", env("CHECKPOINT_MS", "1000") + " ms");
        c.setString("rest.bind-address", "127.0.0.1");
        c.setString("pipeline.object-reuse", "true");
        StreamExecutionEnvironment e = StreamExecutionEnvironment.createLocalEnvironment(Integer.parseInt(env("PARALLELISM", "2")), c);
        e.setRuntimeMode(RuntimeExecutionMode.STREAMING);
        KafkaSource<Tick> src = KafkaSource.<Tick>builder().setBootstrapServers(bs).setTopics(System.getenv("TOPIC")).setGroupId(System.getenv("GROUP"))
            .setStartingOffsets(OffsetsInitializer.earliest()).setBounded(OffsetsInitializer.latest())
            .setValueOnlyDeserializer(new Decode()).build();
        // watermarks are kept for each partition inside the source, as the connector does
        DataStream<Tick> in = e.fromSource(src, WatermarkStrategy.<Tick>forBoundedOutOfOrderness(Duration.ofSeconds(5))
            .withTimestampAssigner((t, x) -> t.eventUs / 1000), "trades");
        KeyedStream<Tick, String> k = in.keyBy(t -> t.instrument);
        DataStream<Out> all = null;
        for (int s : new int[] {60, 300, 900}) {
            DataStream<Out> o = k.window(TumblingEventTimeWindows.of(Duration.ofSeconds(s))).aggregate(new Agg(), new Emit(s), TypeInformation.of(Bar.class), TypeInformation.of(Bar.class), TypeInformation.of(Out.class));
            all = all == null ? o : all.union(o);
        }
        DeliveryGuarantee g = DeliveryGuarantee.valueOf(env("GUARANTEE", "AT_LEAST_ONCE"));
        var sink = KafkaSink.<Out>builder().setBootstrapServers(bs).setRecordSerializer(new Ser(System.getenv("OUT"))).setDeliveryGuarantee(g)
            .setProperty("compression.type", "lz4").setProperty("linger.ms", "50").setProperty("transaction.timeout.ms", "600000");
        if (g == DeliveryGuarantee.EXACTLY_ONCE) sink.setTransactionalIdPrefix(System.getenv("GROUP"));
        all.sinkTo(sink.build());
        var r = e.execute("bars");
        System.out.println("flink job ms=" + r.getNetRuntime());
    }
}
