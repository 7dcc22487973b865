package tests

import (
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"testing"

	"drover/tests/harness"
)

func TestMain(m *testing.M) {
	status := m.Run()
	harness.Cleanup()
	os.Exit(status)
}

// long asks for the full sizes: DROVER_LONG=1.
func long() bool { return os.Getenv("DROVER_LONG") == "1" }

// size is |short| by default and |full| in the long run.
func size(short, full int) int {
	if long() {
		return full
	}
	return short
}

// seed is DROVER_SEED, else 1; every test prints the one it uses.
func seed(t testing.TB) int64 {
	n := int64(1)
	if text := os.Getenv("DROVER_SEED"); text != "" {
		var err error
		if n, err = strconv.ParseInt(text, 0, 64); err != nil {
			t.Fatalf("DROVER_SEED: %v", err)
		}
	}
	t.Logf("seed %d", n)
	return n
}

// report appends |text| to the file that DROVER_FINDINGS names.
func report(text string) {
	path := os.Getenv("DROVER_FINDINGS")
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintln(f, text)
}

// start brings up a cluster for the length of the test, and shows its last words if it fails.
func start(t *testing.T, setup harness.Setup, extra ...string) *harness.Cluster {
	t.Helper()
	c, err := harness.StartCluster(setup, extra...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, r := range c.Replicas {
				if tail := r.LogTail(5); tail != "" {
					t.Logf("%s:\n%s", r.Name, tail)
				}
			}
		}
		c.Kill()
	})
	return c
}

// eachSetup runs |test| for every engine and number of replicas that the run asks for.
func eachSetup(t *testing.T, test func(t *testing.T, setup harness.Setup)) {
	for _, setup := range harness.Setups() {
		t.Run(setup.String(), func(t *testing.T) { test(t, setup) })
	}
}

func newRand(seed int64) *rand.Rand { return rand.New(rand.NewSource(seed)) }
