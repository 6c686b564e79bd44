import java.io.FileInputStream;
import java.io.InputStream;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.eclipse.paho.mqttv5.client.MqttClient;
import org.eclipse.paho.mqttv5.client.MqttConnectionOptions;
import org.eclipse.paho.mqttv5.client.persist.MemoryPersistence;
import org.eclipse.paho.mqttv5.common.MqttException;
import org.eclipse.paho.mqttv5.common.MqttMessage;

/**
 * Publishes one reading with QoS 1, as a Java device does (Eclipse Paho, MQTT 5), and prints "published" or the reason code of the refusal.
 *
 * <pre>Publish URI TOPIC READING AUTHORITY CERTIFICATE USER SECRET</pre>
 *
 * AUTHORITY is a PEM file, CERTIFICATE a PKCS #12 file without a password; "-" for what there is none of.
 */
public final class Publish {
    private static final char[] NO_PASSWORD = new char[0];

    public static void main(String[] arguments) throws Exception {
        String uri = arguments[0], topic = arguments[1], reading = arguments[2];
        MqttConnectionOptions options = new MqttConnectionOptions();
        options.setConnectionTimeout(20);
        options.setAutomaticReconnect(false);
        if (!arguments[3].equals("-")) {
            options.setSocketFactory(tls(arguments[3], arguments[4]).getSocketFactory());
        }
        if (!arguments[5].equals("-")) {
            options.setUserName(arguments[5]);
            options.setPassword(arguments[6].getBytes("UTF-8"));
        }
        try {
            MqttClient client = new MqttClient(uri, "java", new MemoryPersistence());
            client.connect(options);
            MqttMessage message = new MqttMessage(reading.getBytes("UTF-8"));
            message.setQos(1);
            client.publish(topic, message);
            client.disconnect();
            System.out.println("published");
        } catch (MqttException refused) {
            System.out.println("refused " + refused.getReasonCode() + " " + refused.getMessage());
        }
        System.exit(0); // its threads may go on
    }

    private static SSLContext tls(String authority, String certificate) throws Exception {
        KeyStore trusted = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        try (InputStream pem = new FileInputStream(authority)) {
            trusted.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        KeyStore own = KeyStore.getInstance("PKCS12");
        own.load(null, null);
        if (!certificate.equals("-")) {
            try (InputStream file = new FileInputStream(certificate)) {
                own.load(file, NO_PASSWORD);
            }
        }
        keys.init(own, NO_PASSWORD);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }
}
