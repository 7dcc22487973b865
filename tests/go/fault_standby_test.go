package tests

// Goal: with a synchronous standby a write is acknowledged only when the standby has it, too; while it
// is dead writes wait, and nothing is lost or done twice by that.
// Method: a primary and one standby, load as in the crash tests, kill -9 of the standby; in the end
// kill -9 of the primary, and a look at what the standby has.

import (
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"drover/tests/harness"
)

// startWithStandby is a primary that waits for its one standby.
func startWithStandby(t *testing.T) (primary, standby *harness.Postgres) {
	t.Helper()
	needDrover(t)
	needPostgres(t)
	primary, err := harness.StartPostgres()
	check(t, err == nil, "%v", err)
	t.Cleanup(primary.KillAll)
	standby, err = primary.StartStandby("standby")
	check(t, err == nil, "%v", err)
	t.Cleanup(standby.KillAll)
	_, err = primary.SQL("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'standby'")
	check(t, err == nil, "%v", err)
	_, err = primary.SQL("postgres", "SELECT pg_reload_conf()")
	check(t, err == nil, "%v", err)
	inSync(t, primary)
	return primary, standby
}

// inSync waits until the standby follows and is waited for.
func inSync(t *testing.T, primary *harness.Postgres) {
	t.Helper()
	var out string
	var err error
	sync := harness.Eventually(func() bool {
		out, err = primary.SQL("postgres", "SELECT state, sync_state FROM pg_stat_replication")
		return err == nil && out == "streaming|sync"
	})
	check(t, sync, "the standby does not follow: %s %v", out, err)
}

func TestASynchronousStandbyMayDie(t *testing.T) {
	primary, standby := startWithStandby(t)
	c, err := harness.StartClusterOn(primary, 2)
	check(t, err == nil, "%v", err)
	defer c.Kill()
	// Longer than a request may wait, and than drover waits for its statement.
	outages := []time.Duration{1500 * time.Millisecond, 9500 * time.Millisecond}
	round := 0
	// What the test itself writes has keys that the books of the load leave out.
	crash(t, c, newRand(seed(t)), size(len(outages), 20), func() error {
		defer func() { round++ }()
		return standbyOutage(t, c, standby, round, outages[round%len(outages)])
	})
	inSync(t, primary)
	put, err := pb.NewKVClient(dial(t, c.Endpoints()[0])).Put(testContext(t), &pb.PutRequest{Key: []byte("beside/last")})
	check(t, err == nil, "put: %v", err)
	primary.KillAll()
	out, err := standby.SQL(c.Database, fmt.Sprintf("SELECT count(DISTINCT revision) FROM kv WHERE revision <= %d", put.Header.Revision))
	check(t, err == nil && out == fmt.Sprint(put.Header.Revision-1), "revision %d is acknowledged, the standby has %s: %v",
		put.Header.Revision, out, err)
}

// standbyOutage kills the standby for a while, in which no write that is sent may be acknowledged.
func standbyOutage(t *testing.T, c *harness.Cluster, standby *harness.Postgres, round int, length time.Duration) error {
	standby.KillAll()
	answered := make(chan error, 1)
	began := time.Now()
	var took time.Duration
	go func() {
		_, err := pb.NewKVClient(dialStrict(t, c.Endpoints()[round%2])).Put(testContext(t),
			&pb.PutRequest{Key: fmt.Appendf(nil, "beside/%d", round)})
		took = time.Since(began)
		answered <- err
	}()
	var err error
	done := false
	select {
	case err = <-answered:
		if err == nil {
			return fmt.Errorf("a write is acknowledged that no standby has")
		}
		done = true
	case <-time.After(length):
	}
	time.Sleep(time.Until(began.Add(length)))
	if failed := standby.Start(); failed != nil {
		return failed
	}
	if !done {
		select {
		case err = <-answered:
		case <-time.After(harness.Patience):
			return fmt.Errorf("a write is not answered after the standby is back")
		}
	}
	t.Logf("the standby is away for %v: a write ends with %v after %v", length, err, took.Round(time.Millisecond))
	if err != nil && !strings.Contains(err.Error(), "etcdserver: request timed out") &&
		!strings.Contains(err.Error(), "etcdserver: no leader") {
		return fmt.Errorf("a write ends with %w", err)
	}
	return nil
}
