package tests

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"sort"
	"strings"
	"testing"

	"drover/tests/harness"
)

// What one HTTP answer looks like to a probe.
type httpAnswer struct {
	Status int
	Allow  string
	Type   string
	Body   string
}

func httpAsk(t *testing.T, base, method, path string) httpAnswer {
	t.Helper()
	request, err := http.NewRequest(method, base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return httpAnswer{response.StatusCode, response.Header.Get("Allow"),
		response.Header.Get("Content-Type"), sortChecks(string(body))}
}

// etcd runs the checks of /readyz in the order of a Go map.
func sortChecks(body string) string {
	lines := strings.SplitAfter(body, "\n")
	checks := 0
	for checks < len(lines) && strings.HasPrefix(lines[checks], "[") {
		checks++
	}
	sort.Strings(lines[:checks])
	return strings.Join(lines, "")
}

// Goal: a probe, a balancer or kubeadm cannot tell drover's HTTP paths from etcd's.
// Method: the same requests to both, answers compared whole.
func TestHTTPPathsAnswerAsEtcd(t *testing.T) {
	etcd, err := harness.StartEtcdProcess(toolsDir(t))
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Kill()
	drover, err := harness.StartDrover(harness.DroverOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer drover.Kill()
	paths := []string{
		"/health", "/health?serializable=true", "/health?serializable=false", "/health?exclude=NOSPACE",
		"/health?exclude=NOSPACE&serializable=true", "/health?%zz", "/health?serializable=tr%75e",
		"/livez", "/livez?verbose", "/livez?verbose&exclude=serializable_read", "/livez?exclude=nonsense",
		"/livez/serializable_read", "/livez/serializable_read?verbose", "/livez/linearizable_read", "/livez/",
		"/readyz", "/readyz?verbose", "/readyz?verbose&exclude=linearizable_read&exclude=non_learner",
		"/readyz/data_corruption", "/readyz/serializable_read?verbose", "/readyz/linearizable_read",
		"/readyz/non_learner", "/readyz/nonsense", "/version", "/nonsense", "/healthz",
	}
	for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
		for _, path := range paths {
			var want, got httpAnswer
			harness.Eventually(func() bool { // On a slow machine either may be found unwell.
				want = httpAsk(t, etcd.URL(), method, path)
				got = httpAsk(t, drover.URL(), method, path)
				return want == got || want.Status < 500 && got.Status < 500
			})
			if want != got {
				t.Errorf("%s %s: expected %+v, got %+v", method, path, want, got)
			}
		}
	}
}

// Goal: what is counted moves: a metric that stays 0 whatever happens would look like health.
func TestMetricsMove(t *testing.T) {
	drover, err := harness.StartDrover(harness.DroverOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer drover.Kill()
	client := client(t, drover.Endpoint())
	for i := range 3 {
		if _, err := client.Put(t.Context(), fmt.Sprint("k", i), "value"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Delete(t.Context(), "k0"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Grant(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	page := httpAsk(t, drover.URL(), "GET", "/metrics").Body
	for name, want := range map[string]string{
		"etcd_mvcc_put_total": "3", "etcd_mvcc_delete_total": "1", "etcd_debugging_mvcc_keys_total": "2",
		"etcd_debugging_mvcc_current_revision": "5", "etcd_debugging_lease_granted_total": "1",
		"etcd_server_has_leader": "1", "etcd_server_is_leader": "1", "drover_sql_commit_rows_total": "4",
		"etcd_disk_wal_fsync_duration_seconds_count": "5", "etcd_server_proposals_applied_total": "5",
	} {
		match := regexp.MustCompile(`(?m)^` + name + ` (.*)$`).FindStringSubmatch(page)
		if match == nil || match[1] != want {
			t.Errorf("%s: expected %s, got %v", name, want, match)
		}
	}
}
