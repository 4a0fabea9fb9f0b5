public import ArgumentParser

@main struct SecureMQTT: AsyncParsableCommand {}
