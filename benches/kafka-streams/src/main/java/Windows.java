import java.nio.ByteBuffer;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * Count, sum and mean of a key's amounts over three windows, by event time, at each record's own place.
 *
 * <p>The store has one value per key: the events of the longest window, in the order of their times, 16 bytes each. One get and
 * one put per record is the least that a store can be asked for; rows per (key, hour) or a window store need several
 * gets per record, and pay off only for keys with hundreds of events.
 */
final class Windows implements Processor<byte[], byte[], byte[], byte[]> {
    static final String STORE = "events";

    private static final long HOUR = 3_600_000;
    private static final long[] WINDOWS = {HOUR, 24 * HOUR, 7 * 24 * HOUR};
    private static final int EVENT = 16;

    private final Progress progress;
    private final Sealed.Record input = new Sealed.Record();
    private final double[] features = new double[3 * WINDOWS.length];
    private ProcessorContext<byte[], byte[]> context;
    private KeyValueStore<byte[], byte[]> store;

    Windows(Progress progress) {
        this.progress = progress;
    }

    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
        this.context = context;
        this.store = context.getStateStore(STORE);
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
        progress.begun();
        input.read(record.value());
        byte[] old = store.get(record.key());
        byte[] events = push(old == null ? new byte[0] : old);
        store.put(record.key(), events);
        context.forward(record.withValue(Sealed.vector(input, features)));
        progress.done();
    }

    /** The events with the record's among them, and without those that no window reaches; computes the features. */
    private byte[] push(byte[] old) {
        ByteBuffer events = ByteBuffer.wrap(old);
        long time = input.eventTimeMs;
        long newest = old.length == 0 ? time : Math.max(time, events.getLong(old.length - EVENT));
        long horizon = newest - WINDOWS[WINDOWS.length - 1];
        int from = 0;
        while (from < old.length && events.getLong(from) <= horizon) {
            from += EVENT;
        }
        int at = old.length;
        while (at > from && events.getLong(at - EVENT) > time) {
            at -= EVENT;
        }
        look(events, from, at);
        byte[] all = new byte[old.length - from + EVENT];
        ByteBuffer out = ByteBuffer.wrap(all);
        out.put(old, from, at - from);
        out.putLong(time).putDouble(input.amount);
        out.put(old, at, old.length - at);
        return all;
    }

    private void look(ByteBuffer events, int from, int to) {
        long count = 1;
        double sum = input.amount;
        int next = to - EVENT;
        for (int window = 0; window < WINDOWS.length; window++) {
            long oldest = input.eventTimeMs - WINDOWS[window];
            while (next >= from && events.getLong(next) > oldest) {
                count++;
                sum += events.getDouble(next + 8);
                next -= EVENT;
            }
            features[3 * window] = count;
            features[3 * window + 1] = sum;
            features[3 * window + 2] = sum / count;
        }
    }
}
