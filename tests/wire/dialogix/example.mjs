const response = await fetch('https://api.dialogix.ch/v1/chat/completions', { method: 'POST', headers: { 'Authorization': 'Bearer ak-your-key', 'Content-Type': 'application/json' }, body: JSON.stringify({ model: 'aion-v3', messages: [{ role: 'user', content: 'Hello AION!' }] }) });
const data = await response.json();
console.log(data.choices[0].message.content);
