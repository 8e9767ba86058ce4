package marketflow.peers;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.EncoderFactory;

/** A bar being built. Open and close go by (event time, sequence), so arrival order does not change it. A plain POJO, as Flink wants one. */
public class Bar {
    public double open, high, low, close, volume, turnover; public long tradeCount, firstUs, firstSequence, lastUs, lastSequence;
    public Bar() {}

    public Bar add(Tick t) {
        double p = t.price, q = t.size; long us = t.eventUs, sequence = t.sequence;
        if (tradeCount == 0) { open = high = low = close = p; firstUs = lastUs = us; firstSequence = lastSequence = sequence; }
        else {
            if (us < firstUs || (us == firstUs && sequence < firstSequence)) { firstUs = us; firstSequence = sequence; open = p; }
            if (us > lastUs || (us == lastUs && sequence > lastSequence)) { lastUs = us; lastSequence = sequence; close = p; }
            if (p > high) high = p;
            if (p < low) low = p;
        }
        volume += q; turnover += p * q; tradeCount++;
        return this;
    }
    /** 88 bytes, for the state stores: cheaper than any schema'd form. */
    public byte[] toState() {
        ByteBuffer b = ByteBuffer.allocate(88);
        b.putDouble(open).putDouble(high).putDouble(low).putDouble(close).putDouble(volume).putDouble(turnover);
        b.putLong(tradeCount).putLong(firstUs).putLong(firstSequence).putLong(lastUs).putLong(lastSequence);
        return b.array();
    }
    public static Bar fromState(byte[] a) {
        ByteBuffer b = ByteBuffer.wrap(a);
        Bar x = new Bar();
        x.open = b.getDouble(); x.high = b.getDouble(); x.low = b.getDouble(); x.close = b.getDouble(); x.volume = b.getDouble(); x.turnover = b.getDouble();
        x.tradeCount = b.getLong(); x.firstUs = b.getLong(); x.firstSequence = b.getLong(); x.lastUs = b.getLong(); x.lastSequence = b.getLong();
        return x;
    }
    /** bar.avsc behind a Confluent header; it is in no registry, so its id is 0. */
    public byte[] toAvro(String instrument, int intervalS, long openUs) {
        ByteArrayOutputStream o = new ByteArrayOutputStream(96);
        for (int i = 0; i < 5; i++) o.write(0);
        try {
            BinaryEncoder e = EncoderFactory.get().directBinaryEncoder(o, null);
            e.writeString(instrument); e.writeInt(intervalS); e.writeLong(openUs);
            e.writeDouble(open); e.writeDouble(high); e.writeDouble(low); e.writeDouble(close); e.writeDouble(volume); e.writeDouble(turnover / volume);
            e.writeLong(tradeCount);
            e.flush();
        } catch (IOException x) { throw new IllegalStateException(x); }
        return o.toByteArray();
    }
}
