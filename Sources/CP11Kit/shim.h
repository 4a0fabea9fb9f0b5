// PKCS #11 as p11-kit declares it, its loader of modules, and its parser of RFC 7512 URIs.
#include <p11-kit/p11-kit.h>
#include <p11-kit/uri.h>
