package tests

// Goal: etcdctl works with drover as with etcd, the old one of Debian and the newest.
// Method: one script of commands runs against etcd and against drover; outputs and exit codes must
// be the same. With three replicas each command goes to another one.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/tests/harness"
)

// ctlStep is one command; |input| is its stdin. |except| hides what may differ. One that does not end
// by itself is ended after |limit|.
type ctlStep struct {
	args   string
	input  string
	except *regexp.Regexp
	repeat bool // Until the output is etcd's, for what other replicas tell later.
	limit  time.Duration
}

var (
	leaseID   = regexp.MustCompile(`\b[0-9a-f]{9,16}\b`)
	remaining = regexp.MustCompile(`remaining\([0-9]+s\)`)
	took      = regexp.MustCompile(`took = [0-9.]+[µmn]?s`)
	endpoint  = regexp.MustCompile(`127\.0\.0\.1:[0-9]+`)
	jsonIDs   = regexp.MustCompile(`"(cluster_id|member_id|raft_term)":[0-9]+`)
)

// ctlScript holds LEASE where the id of the lease granted last belongs.
var ctlScript = []ctlStep{
	{args: "put foo bar"},
	{args: "put foo1 bar1"},
	{args: "put foo2 bar2"},
	{args: "put foo3 bar3"},
	{args: "put a aa"},
	{args: "put -- -dash value"},
	{args: "put foo", input: "from stdin"},
	{args: "put foo bar --prev-kv"},
	{args: "put foo --ignore-value"},
	{args: "put none --ignore-value"},
	{args: "get foo"},
	{args: "get none"},
	{args: "get foo foo3"},
	{args: "get --prefix foo"},
	{args: "get --from-key foo2"},
	{args: "get --prefix --limit=2 foo"},
	{args: "get --prefix --keys-only foo"},
	{args: "get --prefix --print-value-only foo"},
	{args: "get --prefix --count-only --write-out=fields foo", except: regexp.MustCompile(`"(ClusterID|MemberID|RaftTerm)" : [0-9]+`)},
	{args: "get --prefix --sort-by=VALUE --order=DESCEND foo"},
	{args: "get --prefix --sort-by=MODIFY --order=ASCEND foo"},
	{args: "get --prefix --sort-by=CREATE --order=DESCEND --limit=1 foo"},
	{args: "get --prefix --sort-by=VERSION foo"},
	{args: "get --rev=4 --prefix foo"},
	{args: "get --rev=100 foo"},
	{args: "get --consistency=s foo", repeat: true},
	{args: "get --hex foo"},
	{args: "get -w json --prefix foo", except: jsonIDs},
	{args: "get -w fields foo", except: regexp.MustCompile(`"(ClusterID|MemberID|RaftTerm)" : [0-9]+`)},
	{args: "del foo3"},
	{args: "del foo3"},
	{args: "del --prev-kv foo2"},
	{args: "del --prefix foo1"},
	{args: "txn -i", input: "value(\"foo\") = \"bar\"\nmod(\"a\") > \"1\"\n\nput foo txn\nget foo\nget --prefix a\n\nput foo failed\n\n"},
	{args: "txn -i", input: "version(\"foo\") = \"99\"\n\nput foo txn\n\nget foo\ndel a\n\n"},
	{args: "txn", input: "create(\"none\") = \"0\"\n\nput new one\n\nput new two\n\n"},
	{args: "get --prefix \"\""},
	{args: "watch --rev=2 --prefix foo", limit: 2 * time.Second},
	{args: "watch --rev=2 --prev-kv foo", limit: 2 * time.Second},
	{args: "watch --rev=2 a z", limit: 2 * time.Second},
	{args: "lease grant 600"},
	{args: "put --lease=LEASE leased1 x"},
	{args: "put --lease=LEASE leased2 y"},
	{args: "put --lease=12345 unknown y"},
	{args: "lease timetolive LEASE", except: remaining},
	{args: "lease timetolive LEASE --keys", except: remaining},
	{args: "lease keep-alive --once LEASE"},
	{args: "lease list", repeat: true},
	{args: "lease revoke LEASE"},
	{args: "lease revoke LEASE"},
	{args: "lease timetolive LEASE"},
	{args: "get --prefix leased"},
	{args: "compaction 5"},
	{args: "compaction 5"},
	{args: "compaction 100000"},
	{args: "compaction 6 --physical"},
	{args: "get --rev=4 foo"},
	{args: "get --rev=6 --prefix foo"},
	{args: "watch --rev=2 --prefix foo"},
	{args: "endpoint health", except: took},
	{args: "endpoint hashkv-not-a-command"},
	{args: "get"},
	{args: "put onlykey-too many args"},
}

type ctlTarget struct {
	endpoints []string
	calls     int
	lease     string
}

// ctlCommand is etcdctl with more patience than its own five seconds.
func ctlCommand(ctx context.Context, bin, endpoints string, args ...string) *exec.Cmd {
	patience := harness.Patience.String()
	cmd := exec.CommandContext(ctx, bin, append([]string{"--endpoints=" + endpoints, "--dial-timeout=" + patience,
		"--command-timeout=" + patience, "--keepalive-timeout=" + patience}, args...)...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	return cmd
}

// run executes one command and returns everything that it says, and its exit code.
func (c *ctlTarget) run(t *testing.T, bin string, s ctlStep) string {
	t.Helper()
	args := strings.Fields(strings.ReplaceAll(s.args, "LEASE", c.lease))
	limit := harness.Patience
	if s.limit > 0 {
		limit = s.limit
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for i, arg := range args {
		if arg == `""` {
			args[i] = ""
		}
	}
	at := c.endpoints[c.calls%len(c.endpoints)]
	c.calls++
	cmd := ctlCommand(ctx, bin, at, args...)
	cmd.Stdin = strings.NewReader(s.input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	text := out.String()
	if strings.HasPrefix(s.args, "lease grant") {
		if id := leaseID.FindString(text); id != "" {
			c.lease = id
		}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && s.limit == 0 {
		text += fmt.Sprintf("exit %d\n", exit.ExitCode())
	}
	return c.normalize(text, s)
}

var attached = regexp.MustCompile(`attached keys\(\[(.*)\]\)`)

var logLine = regexp.MustCompile(`(?m)^\{"level".*\n`)

func (c *ctlTarget) normalize(text string, s ctlStep) string {
	text = logLine.ReplaceAllString(text, "")
	if s.except != nil {
		text = s.except.ReplaceAllString(text, "…")
	}
	// etcd lists the keys of a lease in no order.
	text = attached.ReplaceAllStringFunc(text, func(keys string) string {
		words := strings.Fields(attached.FindStringSubmatch(keys)[1])
		slices.Sort(words)
		return "attached " + strings.Join(words, " ")
	})
	return endpoint.ReplaceAllString(leaseID.ReplaceAllString(text, "ID"), "ENDPOINT")
}

// etcdctls finds Debian's etcdctl and the newest; the folder comes from DROVER_TOOLS, or is built.
func etcdctls(t *testing.T) map[string]string {
	t.Helper()
	bins := map[string]string{}
	if path, err := exec.LookPath("etcdctl"); err == nil {
		out, _ := exec.Command(path, "version").Output()
		if strings.Contains(string(out), "3.4.") {
			bins["3.4"] = path
		}
	}
	bins["3.7"] = filepath.Join(toolsDir(t), "etcdctl")
	return bins
}

var toolsOnce = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("DROVER_TOOLS"); dir != "" {
		return dir, nil
	}
	dir, err := harness.TempDir("tools")
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("./build-tools.sh", dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build-tools.sh: %w\n%s", err, out)
	}
	return dir, nil
})

// toolsDir holds the newest etcd and etcdctl.
func toolsDir(t *testing.T) string {
	t.Helper()
	dir, err := toolsOnce()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestEtcdctlSaysTheSame(t *testing.T) {
	bins := etcdctls(t)
	if _, ok := bins["3.4"]; !ok {
		t.Log("Debian's etcdctl 3.4 is not here")
	}
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		for version, bin := range bins {
			t.Run(version, func(t *testing.T) {
				t.Parallel()
				etcd, err := harness.StartEtcd(1)
				if err != nil {
					t.Fatal(err)
				}
				defer etcd[0].Close()
				oracle := &ctlTarget{endpoints: []string{etcd[0].Endpoint()}}
				drover := &ctlTarget{endpoints: start(t, setup).Endpoints()}
				for _, s := range ctlScript {
					compareStep(t, bin, oracle, drover, s)
				}
				ctlTables(t, bin, drover)
				ctlLiveWatch(t, bin, drover)
				ctlExpiry(t, bin, drover)
				ctlKeepAlive(t, bin, drover)
			})
		}
	})
}

func compareStep(t *testing.T, bin string, oracle, drover *ctlTarget, s ctlStep) {
	t.Helper()
	var got, expected string
	both := func() bool {
		want := make(chan string, 1)
		go func() { want <- oracle.run(t, bin, s) }()
		got = drover.run(t, bin, s)
		expected = <-want
		return got == expected
	}
	switch {
	case s.limit > 0: // A watch without an end: longer, if it had not told its history in this time.
		for ; (!both() || got == "") && s.limit < harness.Patience; s.limit *= 2 {
		}
	case s.repeat:
		harness.Eventually(both)
	default:
		both()
	}
	if got != expected {
		t.Errorf("etcdctl %s\nexpected:\n%sgot:\n%s", s.args, expected, got)
		report(fmt.Sprintf("%s etcdctl %s\n  expected: %q\n  got:      %q", t.Name(), s.args, expected, got))
	}
}

// ctlTables looks at what holds names and ids: the shape must be right, the content its own. Members
// come and go by their heartbeats, so it looks again while something is missing.
func ctlTables(t *testing.T, bin string, drover *ctlTarget) {
	t.Helper()
	lacks := ""
	harness.Eventually(func() bool {
		lacks = ctlTablesLack(t, bin, drover)
		return lacks == ""
	})
	check(t, lacks == "", "%s", lacks)
}

func ctlTablesLack(t *testing.T, bin string, drover *ctlTarget) string {
	var failed error
	raw := func(args ...string) string {
		out, err := ctlCommand(t.Context(), bin, strings.Join(drover.endpoints, ","), args...).Output()
		failed = errors.Join(failed, err)
		return string(out)
	}
	status, health := raw("endpoint", "status", "-w", "table"), raw("endpoint", "health", "-w", "table")
	members, cluster := raw("member", "list"), raw("endpoint", "status", "--cluster")
	raw("member", "list", "-w", "table")
	all := len(drover.endpoints)
	switch {
	case failed != nil:
		return failed.Error()
	case !strings.Contains(status, " 3.7.3 "):
		return "no version in\n" + status
	case strings.Count(status, " true ") < 1:
		return "no leader in\n" + status
	case strings.Count(health, " true ") != all:
		return "not all are well in\n" + health
	case strings.Count(members, "started") != all:
		return "not all have started in\n" + members
	case strings.Count(cluster, "3.7.3") < all:
		return "not all are in\n" + cluster
	}
	for _, e := range drover.endpoints {
		if !strings.Contains(status, e) || !strings.Contains(members, e) {
			return "no " + e + " in\n" + status + members
		}
	}
	return ""
}

// ctlLiveWatch: a watch shows what is written while it stands. When it has begun to stand nobody
// tells, so the writes come again and again until it shows one.
func ctlLiveWatch(t *testing.T, bin string, drover *ctlTarget) {
	t.Helper()
	cmd := ctlCommand(t.Context(), bin, drover.endpoints[0], "watch", "live")
	var out lockedBuffer
	cmd.Stdout = &out
	check(t, cmd.Start() == nil, "watch does not start")
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	const once = "PUT\nlive\nwire\nDELETE\nlive\n"
	writes, got := 0, ""
	shown := harness.Eventually(func() bool {
		drover.run(t, bin, ctlStep{args: "put live wire"})
		drover.run(t, bin, ctlStep{args: "del live"})
		writes++
		// 3.4 ends a delete with an empty line for the value that it does not have.
		got = strings.ReplaceAll(out.String(), "\n\n", "\n")
		return strings.Contains(got, once)
	})
	check(t, shown && strings.HasPrefix(strings.Repeat(once, writes+1), strings.TrimPrefix(got, "DELETE\nlive\n")),
		"live watch: %q", got)
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// ctlExpiry: the key of a lease is there for its TTL, and gone some time later.
func ctlExpiry(t *testing.T, bin string, drover *ctlTarget) {
	t.Helper()
	withinTTL(t, 2, func(try int, ttl int64) (string, time.Duration) {
		began := time.Now()
		drover.run(t, bin, ctlStep{args: fmt.Sprint("lease grant ", ttl)})
		put := drover.run(t, bin, ctlStep{args: fmt.Sprint("put --lease=LEASE short", try, " z")})
		get := ctlStep{args: fmt.Sprint("get short", try)}
		got := drover.run(t, bin, get)
		if put != "OK\n" || got != fmt.Sprintf("short%d\nz\n", try) {
			return put + got, time.Since(began)
		}
		gone := harness.Eventually(func() bool { return drover.run(t, bin, get) == "" })
		took := time.Since(began)
		check(t, gone, "a lease of %d s is still there", ttl)
		check(t, took >= time.Duration(ttl)*time.Second, "a lease of %d s ends after %v", ttl, took)
		return "", 0
	})
}

// ctlKeepAlive: a lease that is kept alive outlives its TTL, and dies when it is let go.
func ctlKeepAlive(t *testing.T, bin string, drover *ctlTarget) {
	t.Helper()
	// On a slow machine the tool may come too late: then with a longer TTL, but not for ever.
	for ttl := int64(3); ; ttl *= 2 {
		got, lasting := ctlKept(t, bin, drover, ttl)
		if got == "kept\nx\n" {
			break
		}
		check(t, ttl < 60, "a lease of %d s that is kept alive, after %v: %q", ttl, lasting, got)
		t.Logf("too slow to keep a lease of %d s alive", ttl)
	}
	gone := harness.Eventually(func() bool { return drover.run(t, bin, ctlStep{args: "get kept"}) == "" })
	check(t, gone, "a lease that nobody keeps alive lives on")
}

// ctlKept keeps a lease alive for more than two TTLs, and returns what its key is then.
func ctlKept(t *testing.T, bin string, drover *ctlTarget, ttl int64) (string, time.Duration) {
	t.Helper()
	drover.run(t, bin, ctlStep{args: fmt.Sprint("lease grant ", ttl)})
	began := time.Now()
	drover.run(t, bin, ctlStep{args: "put --lease=LEASE kept x"})
	cmd := ctlCommand(t.Context(), bin, drover.endpoints[0], "lease", "keep-alive", drover.lease)
	check(t, cmd.Start() == nil, "keep-alive does not start")
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	time.Sleep(time.Duration(2*ttl+1) * time.Second)
	return drover.run(t, bin, ctlStep{args: "get kept"}), time.Since(began)
}
