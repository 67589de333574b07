//! The configuration file.
#![no_main]

use kontiki::{Config, ConfigError};
use kontiki_fuzz::meter;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A file of this length; the parser keeps a tree of it.
    let result = meter::within((256 << 10) + 1024 * text.len(), || Config::from_toml(text));
    match result {
        Ok(config) => {
            assert_eq!(config.check(), Ok(()));
            assert!(config.listen_addr().is_some(), "a member of the cluster has an address");
        }
        Err(ConfigError::Parse(said)) => assert!(!said.is_empty()),
        Err(error @ ConfigError::Value { .. }) => assert!(error.to_string().contains('`'), "{error}: names the value"),
        Err(error @ ConfigError::File { .. }) => panic!("no file was read: {error}"),
    }
});
