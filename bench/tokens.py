#!/usr/bin/env python3
"""tokens.py [N]: N different ES256 tokens, more than a cache of verified tokens holds -> $BENCH_DIR/pki/tokens.txt"""
import base64, json, os, sys, time
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
pki = os.path.join(os.environ["BENCH_DIR"], "pki")
b = lambda x: base64.urlsafe_b64encode(x).rstrip(b"=").decode()
key = serialization.load_pem_private_key(open(os.path.join(pki, "jwt.key"), "rb").read(), None)
head, now = b(json.dumps({"alg": "ES256", "typ": "JWT", "kid": "k1"}, separators=(",", ":")).encode()), int(time.time())
with open(os.path.join(pki, "tokens.txt"), "w") as f:
    for n in range(int(sys.argv[1]) if len(sys.argv) > 1 else 60000):
        body = {"iss": "https://issuer.bench", "aud": "bench", "sub": f"user{n}", "role": "admin", "iat": now, "nbf": now - 60, "exp": now + 86400 * 30}
        signed = head + "." + b(json.dumps(body, separators=(",", ":")).encode())
        r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        f.write(signed + "." + b(r.to_bytes(32, "big") + s.to_bytes(32, "big")) + "\n")
