import java.io.IOException;
import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.state.Stores;

/**
 * The same job in Kafka Streams, exactly once on one thread: what a competent user of it would write. Its parameters are
 * in the environment (PEER_*), as those of faust_peer.py; it runs until it is told to stop.
 */
public final class Peer {
  static final String STORE = "users";
  static final String DECISIONS = "decisions";
  static final String OFFERS = "offers";
  private static final long PROGRESS_MS = 100;

  public static void main(String[] arguments) throws Exception {
    Map<String, String> given = System.getenv();
    Progress progress = new Progress();
    Model model = new Model(given.get("PEER_MODEL"));
    KafkaStreams streams = new KafkaStreams(topology(given, model, progress), settings(given));
    streams.setGlobalStateRestoreListener(progress);
    streams.setUncaughtExceptionHandler(
        error -> {
          error.printStackTrace();
          return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
    Runtime.getRuntime().addShutdownHook(new Thread(() -> close(streams)));
    streams.start();
    Path file = Path.of(given.get("PEER_STAGES"));
    while (!streams.state().hasCompletedShutdown() && streams.state() != KafkaStreams.State.PENDING_ERROR) {
      progress.write(file, streams.state() == KafkaStreams.State.RUNNING);
      Thread.sleep(PROGRESS_MS);
    }
    System.exit(1); // told to stop it ends inside of the hook, and does not come here
  }

  /** Leave the group, so that the next start need not wait until this member has timed out. */
  private static void close(KafkaStreams streams) {
    streams.close(
        CloseOptions.groupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP)
            .withTimeout(Duration.ofSeconds(30)));
  }

  private static Topology topology(Map<String, String> given, Model model, Progress progress) {
    Topology topology = new Topology();
    topology.addSource("clicks", new ByteArrayDeserializer(), new ByteArrayDeserializer(), given.get("PEER_SOURCE"));
    topology.addProcessor("decide", () -> new Decide(model, progress), "clicks");
    topology.addStateStore(
        Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(STORE), Serdes.ByteArray(), Serdes.ByteArray())
            .withCachingEnabled(),
        "decide");
    ByteArraySerializer bytes = new ByteArraySerializer();
    topology.addSink(DECISIONS, given.get("PEER_DECISIONS"), bytes, bytes, "decide");
    topology.addSink(OFFERS, given.get("PEER_OFFERS"), bytes, bytes, "decide");
    return topology;
  }

  /** Those of the harness' own file, and where this run of it is. */
  private static Properties settings(Map<String, String> given) throws IOException {
    Properties settings = new Properties();
    try (Reader file = Files.newBufferedReader(Path.of(given.get("PEER_SETTINGS")))) {
      settings.load(file);
    }
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, given.get("PEER_APP_ID"));
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, given.get("PEER_BOOTSTRAP"));
    settings.put(StreamsConfig.STATE_DIR_CONFIG, given.get("PEER_DATA_DIR"));
    return settings;
  }

  private Peer() {}
}
