package marketflow.peers;

import java.io.IOException;
import java.nio.ByteBuffer;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;

/**
 * A record of market.trades.v1, read with Avro's own BinaryDecoder straight into the fields that bars need: the quickest way the Java library has.
 * Fields by position, schemas/avro/trade.v1.avsc; what bars do not need is skipped, and what stands behind the last needed field is not read.
 */
public final class Tick {
    static final int TRADE = Integer.parseInt(System.getenv("TRADE_SCHEMA")), CONTROL = Integer.parseInt(System.getenv("CONTROL_SCHEMA"));
    /** Instrument of the tick that an END control becomes: it stands behind every window, makes a bar that nobody publishes, and closes the others. */
    static final String END = "~";
    private static final int KIND_END = 8;
    private static final ThreadLocal<BinaryDecoder> DECODER = new ThreadLocal<>();
    private static final ThreadLocal<ByteBuffer> DECIMAL = ThreadLocal.withInitial(() -> ByteBuffer.allocate(16));

    public String instrument; public long eventUs; public double price; public double size; public int side; public long sequence;

    /** Null for controls that a program without gaps and feeds has no use for. */
    public static Tick decode(byte[] b) {
        if (b.length < 5 || b[0] != 0) throw new IllegalArgumentException("no schema header");
        int schema = (b[1] & 0xff) << 24 | (b[2] & 0xff) << 16 | (b[3] & 0xff) << 8 | (b[4] & 0xff);
        if (schema != TRADE && schema != CONTROL) throw new IllegalArgumentException("schema " + schema + " is unknown");
        try {
            BinaryDecoder d = DecoderFactory.get().binaryDecoder(b, 5, b.length - 5, DECODER.get());
            DECODER.set(d);
            return schema == TRADE ? trade(d) : control(d);
        } catch (IOException e) { throw new IllegalArgumentException(e); }
    }

    private static Tick trade(BinaryDecoder d) throws IOException {
        Tick t = new Tick();
        t.instrument = d.readString();
        d.skipString(); // feed
        t.eventUs = d.readLong();
        d.readLong(); // receive_time
        t.price = decimal(d);
        t.size = d.readIndex() == 0 ? 0 : decimal(d);
        t.side = d.readEnum();
        if (d.readIndex() == 1) d.skipString(); // trade_id
        t.sequence = d.readIndex() == 0 ? 0 : d.readLong();
        return t;
    }

    private static Tick control(BinaryDecoder d) throws IOException {
        if (d.readEnum() != KIND_END) return null;
        d.skipString(); // feed
        if (d.readIndex() == 1) d.skipString(); // instrument
        Tick t = new Tick();
        t.instrument = END;
        t.eventUs = d.readLong(); // clock
        return t;
    }

    /** Scale 8, at most 8 bytes in this workload. */
    private static double decimal(BinaryDecoder d) throws IOException {
        ByteBuffer b = d.readBytes(DECIMAL.get());
        long v = b.get(0);
        for (int i = 1, n = b.limit(); i < n; i++) v = v << 8 | (b.get(i) & 0xff);
        return v / 1e8;
    }
}
