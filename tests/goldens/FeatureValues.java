// What Lucene keeps of a weight: java -cp lucene-core.jar:lucene-analyzers-common.jar FeatureValues.java
// (8.7.0, Debian's liblucene8-java); tests/export/test_opensearch.py has its output.
import org.apache.lucene.document.Document;
import org.apache.lucene.document.FeatureField;
import org.apache.lucene.index.DirectoryReader;
import org.apache.lucene.index.IndexWriter;
import org.apache.lucene.index.IndexWriterConfig;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.ScoreDoc;
import org.apache.lucene.store.ByteBuffersDirectory;

public class FeatureValues {
  public static void main(String[] args) throws Exception {
    float[] weights = {0.1f, 1f / 3, 0.7853982f, 1.005f, 1.9999f, 3.0999f, 2.7182817f, 17.3f,
                       Float.MIN_NORMAL};
    ByteBuffersDirectory directory = new ByteBuffersDirectory();
    IndexWriter writer = new IndexWriter(directory, new IndexWriterConfig(null));
    for (float weight : weights) {
      Document document = new Document();
      document.add(new FeatureField("text_sparse", "u.s.", weight));
      writer.addDocument(document);
    }
    writer.close();
    IndexSearcher searcher = new IndexSearcher(DirectoryReader.open(directory));
    float[] kept = new float[weights.length];
    for (ScoreDoc found :
        searcher.search(FeatureField.newLinearQuery("text_sparse", "u.s.", 1f), 100).scoreDocs) {
      kept[found.doc] = found.score;
    }
    for (int i = 0; i < weights.length; i++) {
      System.out.println(weights[i] + " " + kept[i]);
    }
    FeatureField.newLinearQuery("text_sparse", "a", 64f);
    try {
      FeatureField.newLinearQuery("text_sparse", "a", 64.01f);
    } catch (IllegalArgumentException error) {
      System.out.println(error.getMessage());
    }
    try {
      new FeatureField("text_sparse", "a", 1e-40f);
    } catch (IllegalArgumentException error) {
      System.out.println(error.getMessage());
    }
  }
}
