import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Map;

/** The network, on one thread: one window in, one score out. Its input tensor is memory that is filled anew each time. */
final class Model {
  private final OrtSession session;
  private final ByteBuffer input = ByteBuffer.allocateDirect(Row.WINDOW_BYTES).order(ByteOrder.nativeOrder());
  private final Map<String, OnnxTensor> inputs;

  Model(String path) throws OrtException {
    OrtEnvironment environment = OrtEnvironment.getEnvironment();
    OrtSession.SessionOptions options = new OrtSession.SessionOptions();
    options.setIntraOpNumThreads(1);
    options.setInterOpNumThreads(1);
    session = environment.createSession(path, options);
    long[] shape = {1, Row.WINDOW, Row.FEATURES};
    inputs = Map.of("x", OnnxTensor.createTensor(environment, input.asFloatBuffer(), shape));
  }

  /** Score of the window at the beginning of a row's bytes. */
  float score(byte[] row) throws OrtException {
    input.put(0, row, 0, Row.WINDOW_BYTES);
    try (OrtSession.Result result = session.run(inputs)) {
      return ((OnnxTensor) result.get(0)).getFloatBuffer().get(0);
    }
  }
}
