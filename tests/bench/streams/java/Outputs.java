import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import org.apache.kafka.streams.processor.api.RecordMetadata;

/** The JSON of decisions and offers, field for field that of faust_peer.py. */
final class Outputs {
  private static final JsonFactory JSON = new JsonFactory();
  private static final HexFormat HEX = HexFormat.of();
  private static final long VALID_MS = 86_400_000;

  static String offerId(RecordMetadata at) {
    try {
      MessageDigest digest = MessageDigest.getInstance("MD5"); // 16 bytes, to tell records apart
      String place = at.topic() + ":" + at.partition() + ":" + at.offset();
      return HEX.formatHex(digest.digest(place.getBytes(StandardCharsets.UTF_8)));
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException(e);
    }
  }

  static byte[] decision(String id, Click click, RecordMetadata at, float score, boolean holdout, boolean offered, byte[] row)
      throws IOException {
    ByteArrayOutputStream out = new ByteArrayOutputStream(512);
    try (JsonGenerator json = JSON.createGenerator(out)) {
      json.writeStartObject();
      json.writeStringField("decision_id", id);
      json.writeStringField("user_id", click.userId);
      json.writeNumberField("time_ms", System.currentTimeMillis());
      trigger(json, click, at);
      json.writeStringField("campaign_id", "cart-nudge");
      json.writeNumberField("campaign_version", 1);
      json.writeStringField("arm", offered ? "ten" : "none");
      json.writeArrayFieldStart("eligible");
      json.writeString("ten");
      json.writeEndArray();
      json.writeNumberField("propensity", 1.0);
      json.writeNumberField("score", score);
      json.writeNumberField("draw", 0.0);
      json.writeBooleanField("holdout", holdout);
      json.writeStringField("reason", offered ? "offered" : "holdout");
      json.writeStringField("step", HEX.formatHex(row, Row.WINDOW_BYTES - Row.STEP_BYTES, Row.WINDOW_BYTES));
      json.writeEndObject();
    }
    return out.toByteArray();
  }

  static byte[] offer(String id, Click click, RecordMetadata at) throws IOException {
    ByteArrayOutputStream out = new ByteArrayOutputStream(512);
    try (JsonGenerator json = JSON.createGenerator(out)) {
      json.writeStartObject();
      json.writeStringField("offer_id", id);
      json.writeStringField("user_id", click.userId);
      json.writeStringField("campaign_id", "cart-nudge");
      json.writeNumberField("campaign_version", 1);
      json.writeStringField("kind", "percent");
      json.writeNumberField("percent", 10);
      json.writeStringField("currency", "EUR");
      json.writeNumberField("valid_from_ms", click.timeMs);
      json.writeNumberField("valid_until_ms", click.timeMs + VALID_MS);
      trigger(json, click, at);
      json.writeNumberField("schema_version", 1);
      json.writeEndObject();
    }
    return out.toByteArray();
  }

  private static void trigger(JsonGenerator json, Click click, RecordMetadata at) throws IOException {
    json.writeObjectFieldStart("trigger");
    json.writeStringField("topic", at.topic());
    json.writeNumberField("partition", at.partition());
    json.writeNumberField("offset", at.offset());
    json.writeNumberField("time_ms", click.timeMs);
    json.writeStringField("kind", click.kind);
    json.writeEndObject();
  }

  private Outputs() {}
}
