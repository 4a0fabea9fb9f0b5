/// The authority as a process.
public enum CertificateAuthority {}
