package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// etcdVersions names the variable that asks for tests against etcd's own server:
// its versions, "v3.6,v3.7". They are built from their modules, which takes a
// network and some minutes the first time.
const etcdVersions = "GREGOR_TEST_ETCD"

// TestExternalEtcdServers runs nodes on servers of etcd as others build them, with
// TLS, certificates of clients, and credentials.
func TestExternalEtcdServers(t *testing.T) {
	versions := os.Getenv(etcdVersions)
	if versions == "" {
		t.Skipf("%s names no version of etcd", etcdVersions)
	}
	for version := range strings.SplitSeq(versions, ",") {
		t.Run(version, func(t *testing.T) {
			binary := buildEtcd(t, version)
			certs := makeCertificates(t)
			endpoint := startEtcd(t, binary, certs)
			keys := []string{
				"metadata.etcd.endpoints=https://" + endpoint, "metadata.etcd.tls.ca.file=" + certs.ca,
				"metadata.etcd.tls.cert.file=" + certs.cert, "metadata.etcd.tls.key.file=" + certs.key,
				"metadata.etcd.username=root", "metadata.etcd.password=secret", "broker.session.timeout.ms=2000",
			}
			dir := t.TempDir()
			for i, value := range []string{"a", "b"} {
				n := startNode(t, Options{}, append(keys, "log.dirs="+dir)...)
				if err := produce(t, n.Addr(""), "t", value); err != nil {
					t.Fatal(err)
				}
				if got := strings.Join(consume(t, n.Addr(""), "t", i+1), ""); got != "ab"[:i+1] {
					t.Errorf("got %q", got)
				}
				stopNode(t, n)
			}
			wrong := slices.Concat(keys, []string{"metadata.etcd.password=wrong", "log.dirs=" + t.TempDir()})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			o := Options{Config: values(t, append([]string{"listeners=PLAINTEXT://127.0.0.1:0", "http.address="}, wrong...)...)}
			if n, err := Start(ctx, o); err == nil {
				stopNode(t, n)
				t.Error("a wrong password was taken")
			}
		})
	}
}

// buildEtcd builds the server of a version from its module.
func buildEtcd(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("mod", "init", "etcd")
	run("get", "go.etcd.io/etcd/server/v3@"+version)
	binary := filepath.Join(dir, "etcd")
	run("build", "-o", binary, "go.etcd.io/etcd/server/v3")
	return binary
}

type certificates struct{ ca, cert, key string }

// makeCertificates makes an authority and one certificate, which serves both
// ends.
func makeCertificates(t *testing.T) certificates {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := write("cert.pem", "CERTIFICATE", der)
	return certificates{ca: cert, cert: cert, key: write("key.pem", "EC PRIVATE KEY", keyDER)}
}

// startEtcd runs a server that wants certificates and passwords, and returns its
// address.
func startEtcd(t *testing.T, binary string, certs certificates) string {
	t.Helper()
	ports := make([]string, 2)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = l.Addr().String()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	client, peers := "https://"+ports[0], "http://"+ports[1]
	cmd := exec.Command(binary, "--data-dir", t.TempDir(), "--log-level", "error",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers,
		"--cert-file", certs.cert, "--key-file", certs.key, "--trusted-ca-file", certs.ca, "--client-cert-auth")
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // says that it was killed
	})
	pair, err := tls.LoadX509KeyPair(certs.cert, certs.key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(certs.ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{client}, Logger: zap.NewNop(),
		TLS: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, step := range []func() error{
		func() error { _, err := c.Get(ctx, "x"); return err },
		func() error { _, err := c.UserAdd(ctx, "root", "secret"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(fmt.Errorf("set up etcd: %w", err))
		}
	}
	return ports[0]
}
