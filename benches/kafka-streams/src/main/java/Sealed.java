import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/**
 * The messages of Quadrille's topics, as much of them as the benchmark needs: eight bytes of schema id, then protobuf (see
 * proto/README.md). Written by hand: a generated class would copy what is only passed on.
 */
final class Sealed {
    private static final int SCHEMA_ID = 8;

    private static final int ID = 1;
    private static final int KEY = 2;
    private static final int EVENT_TIME = 3;
    private static final int VALUES = 4;

    private static final int VARINT = 0;
    private static final int FIXED64 = 1;
    private static final int LENGTH = 2;
    private static final int FIXED32 = 5;

    private Sealed() {}

    /** A record; id and key are places in the payload. Used again for every record. */
    static final class Record {
        byte[] payload;
        int idFrom;
        int idTo;
        int keyFrom;
        int keyTo;
        long eventTimeMs;
        /** The first value: the benchmark's records have one. */
        double amount;

        private int at;

        void read(byte[] sealed) {
            payload = sealed;
            at = SCHEMA_ID;
            idFrom = idTo = keyFrom = keyTo = 0;
            eventTimeMs = 0;
            amount = Double.NaN;
            while (at < payload.length) {
                long tag = varint();
                field((int) (tag >>> 3), (int) (tag & 7));
            }
            if (idFrom == idTo || keyFrom == keyTo) {
                throw new IllegalArgumentException("no record: id or key is missing");
            }
        }

        private void field(int number, int type) {
            int from = at;
            switch (type) {
                case VARINT -> {
                    long value = varint();
                    if (number == EVENT_TIME) {
                        eventTimeMs = value;
                    }
                }
                case FIXED64 -> at += 8;
                case FIXED32 -> at += 4;
                case LENGTH -> {
                    int length = (int) varint();
                    from = at;
                    at += length;
                    bytes(number, from);
                }
                default -> throw new IllegalArgumentException("no record: wire type " + type);
            }
        }

        private void bytes(int number, int from) {
            switch (number) {
                case ID -> {
                    idFrom = from;
                    idTo = at;
                }
                case KEY -> {
                    keyFrom = from;
                    keyTo = at;
                }
                case VALUES -> amount = ByteBuffer.wrap(payload).order(ByteOrder.LITTLE_ENDIAN).getDouble(from);
                default -> {}
            }
        }

        private long varint() {
            long value = 0;
            for (int shift = 0; shift < 64; shift += 7) {
                byte next = payload[at++];
                value |= (long) (next & 0x7f) << shift;
                if (next >= 0) {
                    return value;
                }
            }
            throw new IllegalArgumentException("no record: a number is too long");
        }
    }

    /** The feature vector of a record. The schema id is the record's: nobody reads it here. */
    static byte[] vector(Record record, double[] values) {
        int id = record.idTo - record.idFrom;
        int key = record.keyTo - record.keyFrom;
        int doubles = 8 * values.length;
        int size = SCHEMA_ID + 1 + varintSize(id) + id + 1 + varintSize(key) + key
                + 1 + varintSize(record.eventTimeMs) + 1 + varintSize(doubles) + doubles;
        ByteBuffer out = ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN);
        out.put(record.payload, 0, SCHEMA_ID);
        tag(out, ID, LENGTH);
        varint(out, id);
        out.put(record.payload, record.idFrom, id);
        tag(out, KEY, LENGTH);
        varint(out, key);
        out.put(record.payload, record.keyFrom, key);
        tag(out, EVENT_TIME, VARINT);
        varint(out, record.eventTimeMs);
        tag(out, VALUES, LENGTH);
        varint(out, doubles);
        for (double value : values) {
            out.putDouble(value);
        }
        return out.array();
    }

    private static void tag(ByteBuffer out, int number, int type) {
        out.put((byte) (number << 3 | type));
    }

    private static void varint(ByteBuffer out, long value) {
        long left = value;
        while ((left & ~0x7fL) != 0) {
            out.put((byte) (left & 0x7f | 0x80));
            left >>>= 7;
        }
        out.put((byte) left);
    }

    private static int varintSize(long value) {
        return Math.max(1, (70 - Long.numberOfLeadingZeros(value)) / 7);
    }
}
