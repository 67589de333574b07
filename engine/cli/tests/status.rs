//! `kontiki status`: who cannot be reached, who refuses whom and why, for people and for programs.
#![allow(clippy::unwrap_used)]

mod common;

use common::{CLUSTER, Servers, good, run, stdout, until};

/// Replica 3 was given the number of another cluster.
#[test]
fn who_refuses_whom_and_who_cannot_be_reached() {
    let mut servers = Servers::start(3);
    servers.kill(3);
    let ask = |servers: &Servers, id: u64| stdout(&run(&["status", "--to", &servers.addr(id)]));
    until("it is said that replica 3 is away", || {
        ask(&servers, 1).contains("node 1 cannot reach node 3: cannot connect to it: Connection refused")
    });
    let file = servers.config(3);
    let text = std::fs::read_to_string(&file).unwrap().replace(CLUSTER, "0000000000000000000000000000dead").replace("data-3", "data-3x");
    std::fs::write(&file, text).unwrap();
    servers.spawn(3);
    assert!(servers.wait_answering(3));
    until("replica 3 refuses replica 1, as that says", || {
        let text = ask(&servers, 1);
        text.contains(&format!("node 3 ({}) refuses node 1: belongs to another cluster", servers.addr(3)))
            && text.contains("node 1 cannot reach node 3: it refused: belongs to another cluster")
    });
    until("and as replica 3 says", || {
        let text = ask(&servers, 3);
        text.contains("node 3 refuses node 1 (127.0.0.1:")
            && text.contains("node 3 cannot reach node 1: this node refuses it: belongs to another cluster")
    });
    // The same for programs, beside one that does not answer.
    let nobody = common::free_addrs(1)[0];
    let text = good(&run(&["status", "--json", "--to", &format!("{},{nobody}", servers.addr(1)), "--timeout-ms", "2000"]));
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let status = &all[0]["status"];
    assert_eq!((&all[0]["target"], status["id"].as_u64()), (&servers.addr(1).into(), Some(1)), "{text}");
    let by_peer = |met: &&serde_json::Value| met["by_peer"].as_bool() == Some(true);
    let refused = status["refused"].as_array().unwrap().iter().find(by_peer).unwrap();
    assert_eq!((refused["peer"].as_u64(), refused["kind"].as_str()), (Some(3), Some("handshake: cluster")));
    assert!(refused["count"].as_u64() > Some(0) && refused["ago_ms"].is_u64() && refused["remote"] == servers.addr(3), "{text}");
    assert!(status["peers"][1]["unreached"].as_str().unwrap().contains("it refused"), "{text}");
    assert!(all[1]["error"].as_str().unwrap().contains("refused") && all[1]["status"].is_null(), "{text}");
    assert_eq!(all.as_array().unwrap().len(), 2);
}
