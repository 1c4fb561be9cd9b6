import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;

/** How far the stream is, and what it took. */
final class Progress {
    private final OperatingSystemMXBean system =
            (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    private final long records;
    private final AtomicLong done = new AtomicLong();
    private final CountDownLatch finished = new CountDownLatch(1);
    private volatile Mark first;
    private volatile Mark half;
    private volatile Mark last;

    private record Mark(long nanos, long cpuNanos) {}

    Progress(long records) {
        this.records = records;
    }

    private Mark mark() {
        return new Mark(System.nanoTime(), system.getProcessCpuTime());
    }

    /** Called before each record. */
    void begun() {
        if (first == null) {
            synchronized (this) {
                first = first == null ? mark() : first;
            }
        }
    }

    /** Called after each record. */
    void done() {
        long now = done.incrementAndGet();
        if (now == records / 2) {
            half = mark();
        } else if (now == records) {
            last = mark();
            finished.countDown();
        }
    }

    void await() throws InterruptedException {
        finished.await();
    }

    /** All records, and the second half of them, when the compiler has done its work. */
    String report() {
        return line("all", first, last, records) + "\n" + line("second-half", half, last, records - records / 2);
    }

    private static String line(String name, Mark from, Mark to, long records) {
        double seconds = (to.nanos - from.nanos) / 1e9;
        double cpu = (to.cpuNanos - from.cpuNanos) / 1e9;
        return String.format(
                "%s records=%d seconds=%.3f records/s=%.0f cpu-s/M=%.2f",
                name, records, seconds, records / seconds, cpu / records * 1e6);
    }
}
