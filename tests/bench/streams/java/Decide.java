import ai.onnxruntime.OrtException;
import java.io.IOException;
import java.io.UncheckedIOException;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.processor.api.RecordMetadata;
import org.apache.kafka.streams.state.KeyValueStore;

/** The job: an event into its user's row, the row's window through the network, a decision and an offer for a trigger. */
final class Decide implements Processor<byte[], byte[], byte[], byte[]> {
  private static final String TRIGGER = "cart_add";
  private static final int HOLDOUT_PERCENT = 10;

  private final Model model;
  private final Progress progress;
  private ProcessorContext<byte[], byte[]> context;
  private KeyValueStore<byte[], byte[]> users;

  Decide(Model model, Progress progress) {
    this.model = model;
    this.progress = progress;
  }

  @Override
  public void init(ProcessorContext<byte[], byte[]> given) {
    context = given;
    users = given.getStateStore(Peer.STORE);
  }

  @Override
  public void process(Record<byte[], byte[]> record) {
    try {
      long t0 = System.nanoTime();
      Click click = Click.decode(record.value());
      long t1 = System.nanoTime();
      byte[] before = users.get(record.key());
      long t2 = System.nanoTime();
      Row row = new Row(before, click);
      long t3 = System.nanoTime();
      float score = model.score(row.bytes);
      long t4 = System.nanoTime();
      if (click.kind.equals(TRIGGER)) {
        emit(record, click, row, score);
      }
      long t5 = System.nanoTime();
      users.put(record.key(), row.bytes);
      progress.add(t1 - t0, t2 - t1, t3 - t2, t4 - t3, t5 - t4, System.nanoTime() - t5);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    } catch (OrtException e) {
      throw new IllegalStateException(e);
    }
  }

  private void emit(Record<byte[], byte[]> record, Click click, Row row, float score) throws IOException {
    RecordMetadata at = context.recordMetadata().orElseThrow();
    String id = Outputs.offerId(at);
    boolean holdout = Row.crc32(record.key()) % 100 < HOLDOUT_PERCENT;
    boolean offered = score > 0 && !holdout;
    byte[] decision = Outputs.decision(id, click, at, score, holdout, offered, row.bytes);
    context.forward(record.withValue(decision), Peer.DECISIONS);
    if (offered) {
      row.offered(click.timeMs);
      context.forward(record.withValue(Outputs.offer(id, click, at)), Peer.OFFERS);
    }
  }
}
