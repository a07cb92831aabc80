import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Locale;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicLongArray;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.streams.processor.StateRestoreListener;

/** How far it is, for the harness: a JSON file, replaced every 100 ms. The rate itself is taken from committed offsets. */
final class Progress implements StateRestoreListener {
  private static final String[] STAGES = {"decode", "row_read", "features", "score", "emit", "row_write"};

  private final AtomicLong events = new AtomicLong();
  private final AtomicLongArray stagesNs = new AtomicLongArray(STAGES.length);
  private final AtomicLong restored = new AtomicLong();
  private final AtomicLong restoreBeganNs = new AtomicLong();
  private final AtomicLong restoreEndedNs = new AtomicLong();

  /** Of one event; called by the one stream thread. */
  void add(long... ns) {
    for (int i = 0; i < ns.length; i++) {
      stagesNs.lazySet(i, stagesNs.getPlain(i) + ns[i]);
    }
    events.lazySet(events.getPlain() + 1);
  }

  @Override
  public void onRestoreStart(TopicPartition changelog, String store, long from, long to) {
    restoreBeganNs.compareAndSet(0, System.nanoTime());
  }

  @Override
  public void onBatchRestored(TopicPartition changelog, String store, long offset, long records) {
    restored.addAndGet(records);
  }

  @Override
  public void onRestoreEnd(TopicPartition changelog, String store, long records) {
    restoreEndedNs.set(System.nanoTime());
  }

  void write(Path file, boolean running) throws IOException {
    StringBuilder stages = new StringBuilder();
    for (int i = 0; i < STAGES.length; i++) {
      stages.append(i == 0 ? "" : ",").append('"').append(STAGES[i]).append("\":").append(stagesNs.get(i));
    }
    double restoreS = Math.max(restoreEndedNs.get() - restoreBeganNs.get(), 0) / 1e9;
    String json =
        String.format(
            Locale.ROOT,
            "{\"events\":%d,\"ns\":{%s},\"running\":%b,\"restored\":%d,\"restore_s\":%.4f}",
            events.get(), stages, running, restored.get(), restoreS);
    Path next = file.resolveSibling(file.getFileName() + ".new");
    Files.writeString(next, json);
    Files.move(next, file, StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE);
  }
}
