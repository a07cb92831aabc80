import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.zip.CRC32;

/**
 * A user's row: the last 30 steps of 10 features (float32, oldest first), then sixteen counters (int64): last_ms,
 * first_ms, events, session hash, session events, time in view, offers, last offer, then events by kind. The same bytes
 * as in faust_peer.py.
 */
final class Row {
  static final int WINDOW = 30;
  static final int FEATURES = 10;
  static final int STEP_BYTES = FEATURES * Float.BYTES;
  static final int WINDOW_BYTES = WINDOW * STEP_BYTES;
  static final int BYTES = WINDOW_BYTES + 16 * Long.BYTES;

  private static final List<String> KINDS =
      List.of("page_view", "product_view", "search", "cart_add", "favourite", "cart_remove");
  private static final int LAST_MS = 0;
  private static final int FIRST_MS = 1;
  private static final int EVENTS = 2;
  private static final int SESSION = 3;
  private static final int SESSION_EVENTS = 4;
  private static final int DWELL_MS = 5;
  private static final int OFFERS = 6;
  private static final int LAST_OFFER_MS = 7;
  private static final int BY_KIND = 8;

  final byte[] bytes;
  private final ByteBuffer buffer;

  /** The row after this event; {@code before} is null for a new user, as is a row of another system; it stays as it is. */
  Row(byte[] before, Click event) {
    bytes = new byte[BYTES];
    buffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
    if (before != null && before.length == BYTES) {
      System.arraycopy(before, STEP_BYTES, bytes, 0, WINDOW_BYTES - STEP_BYTES);
      System.arraycopy(before, WINDOW_BYTES, bytes, WINDOW_BYTES, BYTES - WINDOW_BYTES);
    }
    int kind = KINDS.indexOf(event.kind);
    if (kind < 0) {
      throw new IllegalArgumentException("kind " + event.kind + " is not one of " + KINDS);
    }
    long lastMs = counter(LAST_MS);
    long session = crc32(event.sessionId.getBytes(StandardCharsets.UTF_8));
    set(SESSION_EVENTS, counter(SESSION) == session ? counter(SESSION_EVENTS) + 1 : 1);
    set(SESSION, session);
    set(LAST_MS, Math.max(lastMs, event.timeMs));
    set(FIRST_MS, counter(FIRST_MS) != 0 ? counter(FIRST_MS) : event.timeMs);
    set(EVENTS, counter(EVENTS) + 1);
    set(DWELL_MS, counter(DWELL_MS) + event.dwellMs);
    set(BY_KIND + kind, counter(BY_KIND + kind) + 1);
    buffer.position(WINDOW_BYTES - STEP_BYTES);
    buffer.putFloat(kind);
    put(Math.max(event.timeMs - lastMs, 0) / 1000.0);
    put(counter(EVENTS) - 1);
    put(counter(SESSION_EVENTS));
    put(counter(BY_KIND + 1));
    put(counter(BY_KIND + 3));
    put(counter(BY_KIND + 4));
    put(event.priceMinor);
    put(event.dwellMs);
    put(counter(OFFERS));
  }

  /** Count an offer. */
  void offered(long timeMs) {
    set(OFFERS, counter(OFFERS) + 1);
    set(LAST_OFFER_MS, timeMs);
  }

  static long crc32(byte[] text) {
    CRC32 crc = new CRC32();
    crc.update(text);
    return crc.getValue();
  }

  private void put(double value) {
    buffer.putFloat((float) Math.log1p(value));
  }

  private long counter(int number) {
    return buffer.getLong(WINDOW_BYTES + number * Long.BYTES);
  }

  private void set(int number, long value) {
    buffer.putLong(WINDOW_BYTES + number * Long.BYTES, value);
  }
}
