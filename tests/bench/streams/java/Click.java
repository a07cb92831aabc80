import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;

/** What the job reads of an event; other fields are skipped, nothing is bound by reflection. */
final class Click {
  private static final JsonFactory JSON = new JsonFactory();

  String userId = "";
  String kind = "";
  String sessionId = "";
  long timeMs;
  long priceMinor;
  long dwellMs;

  static Click decode(byte[] value) throws IOException {
    Click click = new Click();
    try (JsonParser parser = JSON.createParser(value)) {
      parser.nextToken();
      while (parser.nextToken() == JsonToken.FIELD_NAME) {
        String field = parser.currentName();
        parser.nextToken();
        switch (field) {
          case "user_id" -> click.userId = parser.getText();
          case "kind" -> click.kind = parser.getText();
          case "session_id" -> click.sessionId = parser.getText();
          case "time_ms" -> click.timeMs = parser.getLongValue();
          case "price_minor" -> click.priceMinor = parser.getLongValue();
          case "dwell_ms" -> click.dwellMs = parser.getLongValue();
          default -> parser.skipChildren();
        }
      }
    }
    return click;
  }
}
